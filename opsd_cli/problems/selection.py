"""Row filters of a problem set, and the choice of one item from a list of solutions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opsd_cli.grading.interface import AnswerForm
from opsd_cli.problems.cells import json_value, text_of, value_at
from opsd_cli.problems.set_description import SetDescription
from opsd_cli.prompts.rendering import after_thinking


@dataclass(frozen=True)
class Selection:
    """Conditions on rows and list items; the default uses every row unchanged.

    Attributes:
        keep: column -> accepted values.
        drop: column -> rejected values.
        verified_by: list column -> columns with a list of flags each; the first item all of whose
            flags are true is used.
        after_thinking: use only the part of a solution after its think block.
        answers: as what the grader reads gold answers (`opsd_cli.grading.GraderTraits`).
    """

    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    verified_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    after_thinking: bool = False
    answers: AnswerForm = "mathematics"

    @classmethod
    def of(cls, description: SetDescription) -> Selection:
        def values(wanted: Mapping[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
            return {k: (v,) if isinstance(v, str) else v for k, v in wanted.items()}

        return cls(
            values(description.keep),
            values(description.drop),
            description.verified_by,
            description.after_thinking,
        )

    @property
    def answered_by(self) -> set[str]:
        """The roles whose columns provide an answer: one of mathematics is in a solution too."""
        return {"answer", "solution"} if self.answers == "mathematics" else {"answer"}

    @property
    def columns(self) -> set[str]:
        """The columns that the conditions read."""
        flags = {flag for flags in self.verified_by.values() for flag in flags}
        return {*self.keep, *self.drop, *flags}

    def admits(self, row: Mapping[str, Any]) -> bool:
        """True if a row is used."""
        return all(text_of(value_at(row, c)) in wanted for c, wanted in self.keep.items()) and all(
            text_of(value_at(row, c)) not in unwanted for c, unwanted in self.drop.items()
        )

    def text(self, row: Mapping[str, Any], column: str, role: str) -> str | None:
        """A row's text for a role; None if it has none.

        Raises:
            DamagedText: as `opsd_cli.problems.cells.text_of`.
        """
        value = self.value(row, column, role)
        if role == "answer" and self.answers == "json" and isinstance(value, (list, Mapping)):
            return json.dumps(json_value(value), ensure_ascii=False)
        return text_of(value)

    def value(self, row: Mapping[str, Any], column: str, role: str) -> Any:
        """A row's value for a role: the column's value, or the verified item of its list."""
        value = value_at(row, column)
        if column in self.verified_by and isinstance(value, list):
            flags = [value_at(row, flag) or [] for flag in self.verified_by[column]]
            value = next(
                (
                    item
                    for place, item in enumerate(value)
                    if all(place < len(each) and each[place] for each in flags)
                ),
                None,
            )
        if role == "solution" and self.after_thinking and isinstance(value, str):
            value = after_thinking(value)
        return value
