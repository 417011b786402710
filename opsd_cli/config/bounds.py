"""Bounds on a config's numbers, and the base class of its sections.

Every number is bounded so that no library that receives it fails. Many bounds are wider than any
sensible value: they turn a typing mistake into one clear line instead of an overflow an hour later.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

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


Count = Annotated[int, Field(gt=0, le=2**31 - 1)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[int, Field(gt=0, le=2**24)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
NotNegative = Annotated[float, Field(ge=0, le=1e30)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float, Field(ge=0, le=1e3), AfterValidator(_zero_or_least)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
ChatArguments = Annotated[dict[str, JsonValue], AfterValidator(_without_own_arguments)]


class Section(BaseModel):
    """A frozen group of config keys; a field's docstring is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
