"""Checking a value against a JSON schema: the words that the config's schema uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
    "number": (int, float), "null": type(None),
}  # fmt: skip
#: Words that say nothing about which values are allowed.
_REMARKS = {"$schema", "title", "description", "default"}


def mistakes(value: Any, node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[str]:
    """What of a value the schema does not allow; `KeyError` for a word that is not known here."""
    if "type" in node and any(_CHECKS["type"](value, node["type"], node, root)):
        yield f"type: {value!r}"
        return  # the other words are about values of this type
    for word, wanted in node.items():
        if word not in _REMARKS:
            yield from (f"{word}: {value!r}" for _ in _CHECKS[word](value, wanted, node, root))


def _ref(value: Any, wanted: Any, _: Any, root: Any) -> Iterator[str]:
    node = root
    for part in wanted.removeprefix("#/").split("/"):
        node = node[part]
    return mistakes(value, node, root)


def _any_of(value: Any, wanted: Any, _: Any, root: Any) -> Iterator[str]:
    if all(list(mistakes(value, each, root)) for each in wanted):
        yield "none fits"


def _items(value: Any, wanted: Any, _: Any, root: Any) -> Iterator[str]:
    each = wanted if isinstance(wanted, list) else [wanted] * len(value)
    for item, node in zip(value, each, strict=False):
        yield from mistakes(item, node, root)


def _properties(value: Any, wanted: Any, _: Any, root: Any) -> Iterator[str]:
    for key, node in wanted.items():
        if key in value:
            yield from mistakes(value[key], node, root)


def _additional(value: Any, wanted: Any, node: Any, root: Any) -> Iterator[str]:
    for key in value.keys() - node.get("properties", {}).keys():
        yield from ["unknown key"] if wanted is False else mistakes(value[key], wanted, root)


def _true(test: Any) -> Any:
    def check(value: Any, wanted: Any, _: Any, __: Any) -> Iterator[str]:
        if not test(value, wanted):
            yield "refused"

    return check


_CHECKS: dict[str, Any] = {
    "$ref": _ref,
    "anyOf": _any_of,
    "items": _items,
    "properties": _properties,
    "additionalProperties": _additional,
    "additionalItems": _true(lambda v, w: True),
    "type": _true(lambda v, w: isinstance(v, _TYPES[w]) and (w == "boolean" or v is not True)),
    "enum": _true(lambda v, w: v in w),
    "pattern": _true(lambda v, w: re.search(w, v) is not None),
    "minimum": _true(lambda v, w: v >= w),
    "maximum": _true(lambda v, w: v <= w),
    "exclusiveMinimum": _true(lambda v, w: v > w),
    "exclusiveMaximum": _true(lambda v, w: v < w),
    "minItems": _true(lambda v, w: len(v) >= w),
    "maxItems": _true(lambda v, w: len(v) <= w),
}
