"""The description of a problem set: location, row filter, column mapping, prompt and licence.

The catalog consists of such descriptions, and a user's own set may be a YAML file of the same keys
(`opsd data show NAME` prints one to start from). A hub id alone, or one with a subset, a split and
a revision (`ORG/NAME@REVISION:SUBSET:SPLIT`), is a description with the other keys left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, PositiveInt, ValidationError

from opsd_cli.config.bounds import Section
from opsd_cli.config.sections import Columns
from opsd_cli.errors import ConfigError, DataError
from opsd_cli.prompts.rendering import require_placeholders

#: ORG/NAME, then @REVISION, :SPLIT or :SUBSET:SPLIT.
HUB_ID = re.compile(
    r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?"
    r"(:(?P<first>[\w.-]+))?(:(?P<second>[\w.-]+))?"
)
YAML_SUFFIXES = (".yaml", ".yml")
#: Column -> one value or several.
ColumnValues = dict[str, str | tuple[str, ...]]


class SetDescription(Section):
    """Everything needed to read a set, and what its reader should know."""

    title: str = ""
    """What it is, in a few words."""
    data: str
    """A hub id, or a JSONL, JSON, CSV or Parquet file (from a YAML file: relative to it)."""
    subset: str | None = None
    """The hub's name of a part with columns of its own; also called a configuration."""
    split: str | None = None
    """The hub's split; by default the one that the use suggests, or the only one."""
    revision: str | None = None
    """The hub's commit, branch or tag; null is the newest."""
    columns: Columns = Columns()
    """Which column holds what."""
    keep: ColumnValues = Field(default_factory=dict)
    """Use only rows in which each of these columns has the value, or one of the values."""
    drop: ColumnValues = Field(default_factory=dict)
    """Leave out rows in which any of these columns has the value, or one of the values."""
    verified_by: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """For a column that holds a list: columns with a list of flags each. The first item all of
    whose flags are true is used; a row without one has none."""
    after_thinking: bool = False
    """Of a solution that holds a think block, use what follows it."""
    prompt: str | None = None
    """The student's user turn on this set, with {question}; by default that of the config."""
    max_new_tokens: PositiveInt | None = None
    """What evaluations of reasoning models give a completion, at most; shown, never set for you."""
    problems: PositiveInt | None = None
    """How many problems a whole, unaltered set gives; another number is reported."""
    licence: str = ""
    """As its publisher states it."""
    caution: str = ""
    """What to know before relying on it."""


def parse_hub_id(text: str) -> SetDescription | None:
    """The description of `ORG/NAME@REVISION:SUBSET:SPLIT`; None for any other text."""
    match = HUB_ID.fullmatch(text)
    if match is None or text.startswith("."):
        return None
    first, second = match["first"], match["second"]
    return SetDescription(
        data=match["id"],
        revision=match["revision"],
        subset=first if second else None,
        split=second or first,
    )


def read_description(path: Path) -> SetDescription:
    """Read a description from a YAML file; a relative path in it is relative to the file.

    Raises:
        DataError: there is no such file.
        ConfigError: an unknown key, a missing `data`, or an invalid value.
    """
    from opsd_cli.config.explain import suggest
    from opsd_cli.config.yaml_files import read_tree

    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", "check the path")
    try:
        description = SetDescription.model_validate(read_tree(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = list(SetDescription.model_fields)
            raise ConfigError(
                f"{path.name}: a problem set has no key {key!r}",
                suggest(key, known, "opsd data show gsm8k"),
            ) from error
        if first["type"] == "missing":
            raise ConfigError(
                f"{path.name}: {key} is missing",
                "name a hub id or a file: data: openai/gsm8k",
            ) from error
        raise ConfigError(
            f"{path.name}: {key}: {first['msg'][0].lower()}{first['msg'][1:]}",
            "see `opsd data show gsm8k` for one that is right",
        ) from error
    if description.prompt is not None:
        require_placeholders(description.prompt, ["question"], f"{path.name}: prompt")
    if (path.parent / description.data).is_file():
        description = description.model_copy(update={"data": str(path.parent / description.data)})
    return description
