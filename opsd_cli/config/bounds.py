"""Bounds on a config's numbers, and the base class of its sections.

Every number is bounded so that no library that receives it fails. Many bounds are wider than any
sensible value: they turn a typing mistake into one clear line instead of an overflow an hour later.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from opsd_cli.errors import UsageError

#: Every seed is hashed together with names (`opsd_cli.seeds`); 63 bits are what YAML, JSON and
#: every tracker hold as an integer.
LARGEST_SEED = 2**63 - 1
#: A lower temperature overflows in float32; 0 stands for greedy decoding.
LEAST_TEMPERATURE = 1e-3
#: Arguments of a tokenizer's chat template that opsd sets itself.
OWN_CHAT_ARGUMENTS = (
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation",
    "generation_prompt", "max_length", "messages", "padding", "return_assistant_tokens_mask",
    "return_dict", "return_tensors", "self", "tokenize", "tokenizer_kwargs", "truncation",
)  # fmt: skip


def _zero_or_least(value: float) -> float:
    if 0 < value < LEAST_TEMPERATURE:
        raise ValueError(f"should be 0, which is greedy, or at least {LEAST_TEMPERATURE:g}")
    return value


def _without_own_arguments(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in OWN_CHAT_ARGUMENTS:
        if name in value:
            raise ValueError(f"{name!r} is set by opsd itself")
    return value


class Joined:
    """Annotation of a `str | None` field that also takes a list, which it joins with commas.

    Text in brackets, as `--set key=[4,5]` gives it, is a list too.

    Args:
        kinds: JSON's names of what a list may hold.
    """

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_joined, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        lists = [{"type": "array", "items": {"type": kind}} for kind in self._kinds]
        return {"anyOf": [{"type": "string"}, *lists, {"type": "null"}]}


def _joined(value: Any) -> Any:
    if isinstance(value, list | tuple):
        whole = all(isinstance(each, str | int) and not isinstance(each, bool) for each in value)
        return ",".join(str(each).strip() for each in value) if whole else value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        text = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        return ",".join(part.strip().strip("'\"") for part in text.split(","))
    return value


Count = Annotated[int, Field(gt=0, le=2**31 - 1)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[int, Field(gt=0, le=2**24)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
NotNegative = Annotated[float, Field(ge=0, le=1e30)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float, Field(ge=0, le=1e3), AfterValidator(_zero_or_least)]
#: Several short values as one text, with commas between them: `http://a:8000,http://b:8000`, `4,5`.
TextList = Annotated[str | None, Joined("string")]
NumberList = Annotated[str | None, Joined("integer", "string")]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
ChatArguments = Annotated[dict[str, JsonValue], AfterValidator(_without_own_arguments)]


class Section(BaseModel):
    """A frozen group of config keys; a field's docstring is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def require_counts(**counts: int | None) -> None:
    """Raise `UsageError` for an argument below 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}", "give 1 or more")


def require_accuracy(target: float | None) -> None:
    """Raise `UsageError` for a target outside [0, 1]."""
    if target is not None and not 0 <= target <= 1:
        raise UsageError(f"target is {target}", "give an accuracy from 0 to 1")
