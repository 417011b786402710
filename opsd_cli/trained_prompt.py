"""The student's prompt of the run that an exported adapter comes from.

The worked examples (`prompts.few_shot`) are not in the run: they are read again, from the data that
the run names, and compared by the digest that the run recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.errors import DataError, ModelError
from opsd_cli.prompts.rendering import Template

if TYPE_CHECKING:
    from backends.shared.tokenizer import HuggingFaceTokenizer
    from opsd_cli.config.schema import Config


@dataclass(frozen=True)
class TrainedPrompt:
    """The student's prompt of a run.

    Attributes:
        template: with the worked examples, control tokens escaped where the tokenizer is at hand.
        tokenizer: of the base model; None if it is not at hand.
        unknown: why the worked examples are not known; None if they are, or there are none.
    """

    template: Template
    tokenizer: HuggingFaceTokenizer | None
    unknown: str | None = None


def trained_prompt(config: Config, trained: Config) -> TrainedPrompt:
    """The prompt of the run that a config's adapter comes from.

    Args:
        config: with the adapter, and its base model.
        trained: the run's config.
    """
    from dataclasses import replace

    from opsd_cli.prompts.builder import example_turns

    student, few_shot = trained.prompts.student, trained.prompts.few_shot
    template = Template(student.template, student.system, student.chat_arguments)
    tokenizer = _tokenizer(config)
    if not few_shot.examples:
        return TrainedPrompt(template, tokenizer)
    from opsd_cli.problems.few_shot import digest, examples_of

    try:
        examples = examples_of(trained)
    except DataError as error:
        return TrainedPrompt(template, tokenizer, error.message)
    recorded = _recorded_digest(config)
    if recorded is not None and recorded != digest(examples):
        return TrainedPrompt(template, tokenizer, "they have changed since the run")
    turns = example_turns(examples, template, few_shot.response, tokenizer)
    return TrainedPrompt(replace(template, examples=turns), tokenizer)


def _tokenizer(config: Config) -> HuggingFaceTokenizer | None:
    """The base model's tokenizer; an adapter can be exported without it."""
    from backends.shared.model_files import load_tokenizer
    from backends.shared.tokenizer import HuggingFaceTokenizer, tokenizer_folder

    try:
        return HuggingFaceTokenizer(load_tokenizer(tokenizer_folder(config), config))
    except ModelError:
        return None


def _recorded_digest(config: Config) -> str | None:
    """The digest of the worked examples in the run's environment.json; None if it has none."""
    from opsd_cli.adapters import run_of
    from opsd_cli.files.json_files import read_object
    from opsd_cli.training.layout import ENVIRONMENT

    run = run_of(Path(config.adapter or ""))
    found: Any = read_object(run / ENVIRONMENT) if run is not None else None
    for key in ("data", "few_shot", "digest"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None
