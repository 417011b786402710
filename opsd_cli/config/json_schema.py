"""A JSON schema of config files, for editors: keys, descriptions, allowed values and bounds.

Editors differ in the drafts that they know and in what they show beside a `$ref`, so the schema is
draft 7, and each section is written out where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsd_cli.config.presets import preset_names
from opsd_cli.config.schema import Config
from opsd_cli.methods import METHODS

#: The file that `opsd init` looks for, and docs/config.md tells to write.
SCHEMA_FILE = "opsd.schema.json"

Node = dict[str, Any]


def json_schema() -> Node:
    """The schema of a file for `--config`: the config's keys, and `preset` and `methods`."""
    generated = Config.model_json_schema()
    sections = generated.get("$defs", {})
    keys = {name: _plain(node, sections) for name, node in generated["properties"].items()}
    references: Node = {name: {"$ref": f"#/properties/{name}"} for name in keys}
    overrides = {"type": "object", "properties": references, "additionalProperties": False}
    own: Node = {
        "preset": {
            "description": "The preset that this file is laid over (`opsd presets` lists them).",
            "enum": preset_names(),
        },
        "methods": {
            "description": "Keys that have other values with a method: methods.grpo.train.steps.",
            "type": "object",
            "properties": {name: overrides for name in METHODS},
            "additionalProperties": False,
        },
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "opsd config",
        "description": "Settings of opsd train, eval, sample and compare.",
        "type": "object",
        "properties": {**own, **keys},
        "additionalProperties": False,
    }


def modeline() -> str:
    """The comment by which yaml-language-server finds the schema beside a config."""
    return f"yaml-language-server: $schema={SCHEMA_FILE}"


def _plain(node: Mapping[str, Any], sections: Mapping[str, Node]) -> Node:
    """A node with sections written out, in draft 7, and without the titles that pydantic makes."""
    inner = dict(node)
    if reference := inner.pop("$ref", None):
        inner = {**sections[str(reference).rpartition("/")[2]], **inner}
    inner.pop("title", None)
    if "description" in inner:
        inner["description"] = " ".join(inner["description"].split())
    if "prefixItems" in inner:  # a newer draft's word for a tuple
        inner["items"] = [_plain(item, sections) for item in inner.pop("prefixItems")]
        inner["additionalItems"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(inner.get(key), dict):
            inner[key] = _plain(inner[key], sections)
    if "anyOf" in inner:
        inner["anyOf"] = [_plain(each, sections) for each in inner["anyOf"]]
    if "properties" in inner:
        inner["properties"] = {
            name: _plain(each, sections) for name, each in inner["properties"].items()
        }
    return inner
