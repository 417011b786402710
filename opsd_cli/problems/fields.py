"""The columns that problems keep beside question, solution, answer and id, by who reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opsd_cli.config.schema import Config
from opsd_cli.grading import traits_of
from opsd_cli.problems.arithmetic import Split
from opsd_cli.problems.graded_columns import needs_answer, read_for
from opsd_cli.problems.selection import Selection
from opsd_cli.problems.set_description import SetDescription
from opsd_cli.prompts.references import columns_of


def fields_of(config: Config, split: Split) -> tuple[str, ...]:
    """The columns whose values the problems of a split keep (`Problem.fields`).

    They are `data.fields`, those that the grader reads, and, of the training set, those of the
    teacher's reference.
    """
    graded = traits_of(config.grading).columns
    return tuple(dict.fromkeys((*config.data.fields, *graded, *required_fields(config, split))))


def required_fields(config: Config, split: Split) -> tuple[str, ...]:
    """Those of a split's fields without whose value a row is left out.

    They do not depend on the method, so that all methods of a comparison have the same problems.
    """
    if split != "train":
        return ()
    references = (config.teacher.reference, *config.data.usable_for)
    return tuple(dict.fromkeys(column for each in references for column in columns_of(each)))


@dataclass(frozen=True)
class Reading:
    """How the rows of a set are read; the names are those of the arguments of `load_file`."""

    need_solution: bool | None
    need_answer: bool
    limit: int | None
    selection: Selection
    fields: tuple[str, ...]
    required: tuple[str, ...]

    @classmethod
    def of(
        cls, config: Config, split: Split, need_solution: bool | None, limit: int | None
    ) -> Reading:
        """The reading of a split's source."""
        fields, required = fields_of(config, split), required_fields(config, split)
        needed, selection = needs_answer(config), read_for(config)
        return cls(need_solution, needed, limit, selection, fields, required)

    @property
    def of_examples(self) -> Reading:
        """The same reading without more columns: a worked example is neither graded nor taught."""
        return replace(self, fields=(), required=())

    def described(self, description: SetDescription) -> Reading:
        """The same reading of a set with a description, which selects rows."""
        own = Selection.of(description)
        return replace(self, selection=replace(own, answers=self.selection.answers))
