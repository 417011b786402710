"""Whether two models have one vocabulary, so that their next-token distributions can be compared.

Compared are the tokenizers' maps from token to id. How text is cut into tokens may differ: a
completion reaches the teacher as ids. A difference in the rows of the output heads beyond the
tokenizer's ids is padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError

HINT = (
    "choose a teacher of the student's own family, whose tokenizer has the same tokens; a "
    "model with another vocabulary can only write the solutions of your data, for --method sft"
)
_LONGEST_TOKEN = 40
#: What a tokenizer is read from.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


def require_same_vocabulary(
    student: Mapping[str, int], teacher: Mapping[str, int], student_name: str, teacher_name: str
) -> None:
    """Check that every id stands for the same token in both.

    Args:
        student: token -> id of the student's tokenizer.
        teacher: the same of the teacher's.
        student_name: of the student's model, for the message.
        teacher_name: of the teacher's.

    Raises:
        ModelError: an id does not; the first one is named with its two tokens.
    """
    if student == teacher:
        return
    of_student, of_teacher = ({i: t for t, i in each.items()} for each in (student, teacher))
    different = [
        index
        for index in sorted(of_student.keys() | of_teacher.keys())
        if of_student.get(index) != of_teacher.get(index)
    ]
    if not different:  # two texts for one id in one of them
        return
    first = different[0]
    more = f", and {len(different) - 1:,} more ids differ" if len(different) > 1 else ""
    raise ModelError(
        f"teacher.model {teacher_name} has another vocabulary than {student_name}: token "
        f"{first:,} is {_shown(of_teacher.get(first))} there and {_shown(of_student.get(first))} "
        f"in the student{more}",
        HINT,
    )


def require_rows(student: int, teacher: int, student_name: str, teacher_name: str) -> None:
    """Check that the teacher's logits cover every id that the student can sample.

    Args:
        student: ids that the student's output head scores.
        teacher: the same of the teacher's.
        student_name, teacher_name: as `require_same_vocabulary` has them.

    Raises:
        ModelError: they do not.
    """
    if teacher < student:
        raise ModelError(
            f"teacher.model {teacher_name} has logits for {teacher:,} token ids, and the student "
            f"{student_name} for {student:,}",
            HINT,
        )


def check_files(config: Config) -> bool:
    """Compare the tokenizers of a config's model and of its `teacher.model`; reads no weights.

    Returns:
        True if their files, the chat template among them, are the same byte for byte.

    Raises:
        ModelError: the teacher has another vocabulary, or files of one of them cannot be read.
    """
    from backends.shared.model_files import load_tokenizer
    from backends.shared.tokenizer import tokenizer_folder

    teacher = config.teacher_config
    assert teacher is not None
    student_folder, teacher_folder = tokenizer_folder(config), tokenizer_folder(teacher)
    if _same_files(student_folder, teacher_folder):
        return True
    require_same_vocabulary(
        load_tokenizer(student_folder, config).get_vocab(),
        load_tokenizer(teacher_folder, teacher).get_vocab(),
        config.model,
        teacher.model,
    )
    return False


def _same_files(one: Path, other: Path) -> bool:
    def content(folder: Path, name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).is_file() else None

    if content(one, "tokenizer.json") is None:
        return False
    return all(content(one, name) == content(other, name) for name in _FILES)


def _shown(token: str | None) -> str:
    return "no token" if token is None else repr(token[:_LONGEST_TOKEN])
