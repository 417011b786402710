"""What prompts need of another model that teaches (`teacher.model`): tokenizer and context.

Its prompts are rendered by its own chat template. Its vocabulary is the student's
(`backends.shared.vocabulary`), so the student's completion follows as the same token ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from opsd_cli.config.schema import Config
from opsd_cli.prompts.rendering import Tokenizer


@dataclass(frozen=True)
class OtherModel:
    """A model as prompts know it.

    Attributes:
        tokenizer: renders and encodes.
        context_limit: most tokens of a sequence; None if unknown.
    """

    tokenizer: Tokenizer
    context_limit: int | None = None


def other_model(config: Config) -> OtherModel | None:
    """The tokenizer and context of `teacher.model`, without its weights; None without one.

    Raises:
        ModelError: there is no such model, or one of its small files cannot be read.
    """
    from backends.shared.model_files import load_tokenizer, read_settings
    from backends.shared.tokenizer import HuggingFaceTokenizer, tokenizer_folder

    teacher = config.teacher_config
    if teacher is None:
        return None
    wrapped = load_tokenizer(tokenizer_folder(teacher), teacher)
    settings = read_settings(teacher.model_path, teacher.revision)
    settings = {**settings, **(settings.get("text_config") or {})}
    limit = settings.get("max_position_embeddings")
    return OtherModel(
        HuggingFaceTokenizer(wrapped), limit if isinstance(limit, int) and limit > 0 else None
    )
