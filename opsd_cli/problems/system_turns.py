"""Which system turn a prompt has: the chat's own, or else the config's."""

from __future__ import annotations

from dataclasses import replace

from opsd_cli.config.schema import Config
from opsd_cli.problems import ProblemSet


def with_system_note(loaded: ProblemSet, config: Config) -> ProblemSet:
    """The set, with a note where its chats replace a system turn that the config asks for."""
    own = sum(problem.system is not None for problem in loaded.problems)
    prompts = config.prompts
    keys = [
        f"prompts.{role}.system"
        for role, section in (("student", prompts.student), ("teacher", prompts.teacher))
        if section.system is not None
    ]
    if not own or not keys:
        return loaded
    note = (
        f"{loaded.name}: {own:,} of {len(loaded.problems):,} have a system turn of their own, "
        f"which takes the place of {' and '.join(keys)}"
    )
    return replace(loaded, notes=(*loaded.notes, note))
