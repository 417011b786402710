"""Config values whose allowed words come from a registry.

`OneOf` behaves as `typing.Literal` does, in errors and in the JSON schema, but the words are read
from the registry whenever a value is checked, so that a registry stays the only list of its names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


@dataclass(frozen=True)
class OneOf:
    """Annotation of a `str` field: the value must be one of the words.

    Args:
        words: gives the allowed values, in the order in which an error lists them.
        also: a pattern of further allowed values, and what an error calls them.
    """

    words: Callable[[], Iterable[str]]
    also: tuple[str, str] | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        listed = {"enum": list(self.words()), "type": "string"}
        if self.also is None:
            return listed
        return {"anyOf": [listed, {"type": "string", "pattern": self.also[0]}]}

    def _checked(self, value: Any) -> Any:
        words = list(self.words())
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, str) and self.also and re.search(self.also[0], value):
            return value
        *most, last = [repr(word) for word in words]
        if self.also:
            most, last = [*most, last], self.also[1]
        expected = f"{', '.join(most)} or {last}" if most else last
        raise PydanticKnownError("literal_error", {"expected": expected})


def _backends() -> Iterable[str]:
    import backends

    return backends.choices()


def _engines() -> Iterable[str]:
    from backends.rollout_engines import ENGINES

    return ENGINES


def _methods() -> Iterable[str]:
    from opsd_cli.methods import METHODS

    return METHODS


def _trackers() -> Iterable[str]:
    from opsd_cli.tracking.trackers import TRACKERS

    return TRACKERS


def _graders() -> Iterable[str]:
    from opsd_cli.grading import GRADERS

    return GRADERS


def _divergences() -> Iterable[str]:
    from opsd_cli.losses.divergence import KINDS

    return KINDS


def _weighings() -> Iterable[str]:
    from opsd_cli.losses.token_weights import WEIGHINGS

    return WEIGHINGS


BackendName = Annotated[str, OneOf(_backends)]
EngineName = Annotated[str, OneOf(_engines)]
MethodName = Annotated[str, OneOf(_methods)]
TrackerName = Annotated[str, OneOf(_trackers)]
#: A function of the user's is named by its file or module, a colon and its name.
GraderName = Annotated[
    str, OneOf(_graders, (r"^[^:].*:[A-Za-z_]\w*$", "FILE.py:FUNCTION, a function of your own"))
]
DivergenceKind = Annotated[str, OneOf(_divergences)]
WeighingName = Annotated[str, OneOf(_weighings)]
