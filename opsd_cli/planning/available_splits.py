"""The problems that a plan is made with, where they can be read without the network."""

from __future__ import annotations

from collections.abc import Mapping

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataNotAtHand
from opsd_cli.problems.sources import Splits, load_splits
from opsd_cli.tracking.listener import Messages


def available_splits(config: Config, messages: Messages) -> Splits | None:
    """The problems; None, with a note, where they are on a hub that cannot be reached.

    Raises:
        DataError: they can be reached and not be read.
    """
    try:
        splits = load_splits(config)
    except DataNotAtHand as error:
        messages.note(f"{error.message}: planned without it")
        return None
    for warning in splits.warnings:
        messages.warn(warning)
    return splits


def available_splits_by_label(
    configs: Mapping[str, Config], messages: Messages
) -> dict[str, Splits | None]:
    """Each config's problems; a hub that cannot be reached is tried and reported once."""
    splits: dict[str, Splits | None] = {}
    absent: set[str] = set()
    for label, config in configs.items():
        data = config.data.model_dump_json()
        splits[label] = None if data in absent else available_splits(config, messages)
        if splits[label] is None:
            absent.add(data)
    return splits
