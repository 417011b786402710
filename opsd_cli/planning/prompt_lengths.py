"""The prompt lengths that every plan counts with: `--dry-run`'s and `opsd init`'s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opsd_cli.config.schema import Config
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import ModelError
from opsd_cli.planning.memory_plan import Prompts, estimated
from opsd_cli.planning.model_reading import read_model, teacher_characters, text_lengths
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.other_model import other_model
from opsd_cli.prompts.teacher import ANALYSIS_HEADING


def prompt_lengths(config: Config, problems: Sequence[Problem]) -> Prompts:
    """The longest prompts of either role, in tokens.

    They are tokenised where the model is a folder, the package's own, or in the cache, and
    estimated from the texts elsewhere; nothing is downloaded for it.

    Args:
        problems: those of training; without them, long prompts are assumed.

    Raises:
        ConfigError: the chat template refuses the prompts.
    """
    models = (config, config.teacher_config or config)
    if not problems or not all(_at_hand(each) for each in models):
        return estimated(config, problems)
    try:
        reading = read_model(config)
        other_model(config)
    except ModelError:  # said by the checks of the model itself
        return estimated(config, problems)
    if reading.tokenizer is None:
        return estimated(config, problems)
    lengths = text_lengths(reading, config, problems)
    teacher = lengths.teacher
    if config.teacher.reason_first:  # its analysis stands in its prompt, below a heading
        builder = PromptBuilder(config, reading.tokenizer)
        longest = max(problems, key=lambda p: teacher_characters(p, builder))
        request = builder.analysis_request(longest)
        teacher += len(reading.tokenizer.encode(ANALYSIS_HEADING))
        teacher = max(teacher, len(request.ids))
    return Prompts(lengths.student, teacher)


def _at_hand(config: Config) -> bool:
    """True if the model's tokenizer can be read without the network."""
    if config.model == EMBEDDED or Path(config.model_path).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    name = "tokenizer_config.json"
    found = try_to_load_from_cache(config.model_path, name, revision=config.revision)
    return isinstance(found, str)
