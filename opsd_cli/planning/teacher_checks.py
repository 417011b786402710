"""What is checked of `teacher.model` before a run exists, from its small files, and on resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.config.teacher_section import NO_REFERENCE
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import ConfigError, RunError
from opsd_cli.tracking.listener import Messages

#: Key of environment.json that has `identity`.
KEY = "teacher_model"


def require_teacher(config: Config, messages: Messages) -> None:
    """Check the tokenizer and config of `teacher.model`, where the method asks a teacher.

    Warns where the two models end a turn with different tokens.

    Raises:
        ModelError: there is no such model, or it has another vocabulary than the student.
        ConfigError: it is the student's own model, and sees no reference.
        UsageError: the backend cannot quantise it.
        BackendMissing: the package that it quantises with is not installed.
    """
    import backends
    from backends.shared.model_files import model_folder
    from backends.shared.quantization import require_quantizer
    from backends.shared.vocabulary import check_files

    teacher = methods.teacher_model(config)
    if teacher is None:
        return
    quantize = config.teacher.quantize
    chosen = config.backend
    if chosen == backends.AUTO and quantize != "none":
        chosen = backends.choose(chosen).name
    if quantize != "none":
        require_quantizer(chosen, backends.traits_of(chosen), quantize)
    if teacher.is_local and teacher.model != EMBEDDED:
        model_folder(teacher)
    same = same_as_student(config)
    if same is not None:
        raise ConfigError(*same)
    warning = None if check_files(config) else other_end(config)
    if warning is not None:
        messages.warn(warning)


def same_as_student(config: Config) -> tuple[str, str] | None:
    """Why the teacher cannot be told from the student, and what to do; None if it can."""
    if config.teacher.reference != NO_REFERENCE or not _is_own_model(config):
        return None
    return (
        f"teacher.model {config.teacher.model} is the student's own model, and with "
        "teacher.reference=none it sees what the student sees: teacher and student are the same, "
        "and nothing can be learnt",
        "name a larger model of the same vocabulary, or give the teacher a reference: "
        "teacher.reference=solution, answer or sibling",
    )


def _is_own_model(config: Config) -> bool:
    """True if `teacher.model` is the model that the student begins from, unchanged.

    A folder of the same files is the same model. With an adapter to begin from the student is
    another one, and so is a teacher that is quantised.
    """
    from backends.shared.weight_files import quick_digest

    teacher = config.teacher_config
    if teacher is None or config.adapter is not None or config.teacher.quantize != "none":
        return False
    if (teacher.model, teacher.revision) == (config.model, config.revision):
        return True
    folders = [Path(each.model_path).expanduser() for each in (teacher, config)]
    if not (teacher.is_local and config.is_local and all(folder.is_dir() for folder in folders)):
        return False
    return quick_digest(folders[0]) == quick_digest(folders[1])


def other_end(config: Config) -> str | None:
    """A warning if the two models end a turn with different tokens; None if they do not.

    The student's completions end with its own. The teacher gives that token a low probability, and
    the student would learn not to end.
    """
    from backends.shared.model_files import load_tokenizer
    from backends.shared.tokenizer import HuggingFaceTokenizer, tokenizer_folder

    teacher = config.teacher_config
    assert teacher is not None
    student, other = (
        HuggingFaceTokenizer(load_tokenizer(tokenizer_folder(each), each))
        for each in (config, teacher)
    )
    ends = [student.end_of_turn, other.end_of_turn]
    if ends[0] == ends[1] or None in ends:
        return None
    ours, theirs = (student.decode([end]) for end in ends if end is not None)
    return (
        f"the student ends a turn with {ours!r}, and teacher.model {teacher.model} with "
        f"{theirs!r}: the teacher finds the end of every completion improbable, and the student "
        "may learn not to end"
    )


def identity(config: Config) -> dict[str, Any] | None:
    """What tells a run's `teacher.model` from another: its name, revision, and commit or digest.

    Returns:
        None where the run has none.

    Raises:
        ModelError: it cannot be found.
    """
    from backends.shared.model_files import commit_of
    from backends.shared.weight_files import quick_digest

    teacher = methods.teacher_model(config)
    if teacher is None:
        return None
    found: dict[str, Any] = {"model": teacher.model, "revision": teacher.revision}
    if teacher.is_local:
        return found | {"digest": quick_digest(Path(teacher.model_path).expanduser())}
    return found | {"commit": commit_of(teacher)}


def require_same_teacher(config: Config, recorded: dict[str, Any] | None) -> None:
    """Check on resuming that `teacher.model` is what the run began with.

    Args:
        recorded: `identity` as environment.json has it; None if that is not known.

    Raises:
        RunError: its weights or its commit are others.
        ModelError: it cannot be found.
    """
    if recorded is None:
        return
    now = identity(config) or {}
    for key, what in (("digest", "weights"), ("commit", "commit")):
        if recorded.get(key) != now.get(key):
            raise RunError(
                f"teacher.model {recorded.get('model')} has other {what} than when this run began "
                f"({now.get(key)} in place of {recorded.get(key)})",
                "bring the model back as it was, or start a new run with another --out",
            )
