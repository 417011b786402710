"""The warning about a student that thinks, with what was published about it."""

from __future__ import annotations

from collections.abc import Callable

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.planning.model_reading import read_model
from opsd_cli.prompts.rendering import Tokenizer, has_thinking_mode


def thinking_warning(config: Config, tokenizer: Callable[[], Tokenizer | None]) -> str | None:
    """One line for a run that distils a student that thinks; None for any other.

    A student thinks if its chat template has a thinking mode that the config leaves on. Where the
    tokenizer is not at hand, a mode that the config turns on by name is taken to exist.

    Args:
        tokenizer: reads the model's; called only where it matters. None if it is not at hand.

    Raises:
        ConfigError: the chat template refuses a user turn.
    """
    asked = config.prompts.student.chat_arguments.get("enable_thinking")
    if not methods.get(config).distils or not (asked is None or asked):
        return None
    found = tokenizer()
    if not (bool(asked) if found is None else has_thinking_mode(found)):
        return None
    lost = (
        "the student thinks: with a teacher that sees the solution, thinking models lost up to 17% "
        "of their avg@16 on long answers (arXiv 2607.05184)"
    )
    watch = "watch held-out accuracy at full length (evaluation.max_new_tokens)"
    if config.train.learn_from == "correct":
        return f"{lost}; learning from correct rollouts alone kept accuracy (2605.06188); {watch}"
    return (
        f"{lost}, and learning from incorrect rollouts lowered accuracy (2605.06188); turn "
        "thinking off (prompts.student.chat_arguments) or set train.learn_from=correct, and "
        f"{watch}"
    )


def planned_thinking_warning(config: Config) -> str | None:
    """The same before the model is loaded; raises `ModelError` for files that cannot be used."""
    return thinking_warning(config, lambda: read_model(config).tokenizer)
