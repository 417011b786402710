"""docs/config.md, made from the schema: `python -m opsd_cli.config.reference > docs/config.md`.

Types, bounds and defaults come from the JSON schema that pydantic derives, help texts from the
docstrings under the fields. Nothing on the page is written by hand, and a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from opsd_cli.config.schema import Config

#: Characters of a default that a table's cell holds; a longer one stands below the table.
LONGEST_CELL = 60
HEAD = """# Config keys

<!-- Generated: python -m opsd_cli.config.reference > docs/config.md -->

Every key of a config, by section. `opsd presets keys` prints the same keys in a terminal. A key is
set in a YAML file (`--config`) or as `--set section.key=value`; a file overrides a preset, `--set`
a file, and a flag `--set`. Of several `--config`, each is laid over the one before, key by key: a
file with a `preset:` key brings that preset along, over what is before it. Defaults are those
without a preset. Keys that the schema does not have, and values outside the bounds, are refused
before anything is loaded: all of them at once, each with the file and line that it is from. A file
without any key is refused too.

## In an editor

`opsd presets schema` prints a JSON schema of a config file, with every key's description, allowed
values and bounds. VS Code (with the YAML extension), Neovim and other editors that use
yaml-language-server complete and check a config whose first line names the schema:

```
opsd presets schema > opsd.schema.json
```

```
# yaml-language-server: $schema=opsd.schema.json
```

`opsd init` writes that line itself if `opsd.schema.json` is beside the new config.
"""

Node = Mapping[str, Any]


def reference() -> str:
    """The page as Markdown, with a newline at its end."""
    schema = Config.model_json_schema()
    parts = [HEAD, *_section(schema, schema, "", "Top level", "")]
    return "\n".join(parts)


def allowed_values() -> dict[str, dict[str, str]]:
    """Every dotted key that holds a value, with its "type" and "bounds" in words."""
    schema = Config.model_json_schema()

    def of(node: Node, prefix: str) -> Iterator[tuple[str, dict[str, str]]]:
        for name, field in node["properties"].items():
            if target := _target(field):
                yield from of(schema["$defs"][target], f"{prefix}{name}.")
            else:
                kind = _type(field).replace("`", "")
                yield f"{prefix}{name}", {"type": kind, "bounds": _bounds(field)}

    return dict(of(schema, ""))


def _section(schema: Node, node: Node, prefix: str, title: str, text: str) -> Iterator[str]:
    """A heading and a table of a section's own keys, then its sections, each part a few lines."""
    leaves = {name: field for name, field in node["properties"].items() if not _target(field)}
    yield f"## {title}\n"
    if text:
        yield f"{text}\n"
    if leaves:
        yield "| key | type | default | bounds | what it does |\n|---|---|---|---|---|"
        for name, field in leaves.items():
            cells = [f"`{prefix}{name}`", _type(field), _default(field), _bounds(field)]
            row = [*cells, " ".join(field.get("description", "").split())]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        yield ""
    for name, field in leaves.items():
        if _is_long(field):
            fence = f"```\n{_long_text(field['default'])}\n```"
            yield f"Default of `{prefix}{name}`:\n\n{fence}\n"
    for name, field in node["properties"].items():
        if target := _target(field):
            inner = schema["$defs"][target]
            path = f"{prefix}{name}"
            yield from _section(
                schema, inner, f"{path}.", f"`{path}`", " ".join(field["description"].split())
            )


def _target(field: Node) -> str | None:
    """The name of the section that a key stands for; None where the key holds a value."""
    reference = field.get("$ref")
    return None if reference is None else str(reference).rpartition("/")[2]


def _alternatives(field: Node) -> list[Node]:
    """The types that a value may have, one for most keys."""
    return list(field["anyOf"]) if "anyOf" in field else [field]


def _type(field: Node) -> str:
    return " or ".join(_type_of(one) for one in _alternatives(field))


def _type_of(node: Node) -> str:
    if choices := node.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    if "const" in node:
        return f"`{node['const']}`"
    kind = node.get("type", "any")
    if kind == "array":
        if fixed := node.get("prefixItems"):
            return f"{len(fixed)} × {_type_of(fixed[0])}"
        return f"list of {_type_of(node['items'])}"
    names = {"string": "text", "boolean": "true or false", "object": "mapping"}
    return names.get(kind, str(kind))


def _default(field: Node) -> str:
    if "default" not in field:
        return ""
    return "below" if _is_long(field) else f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _is_long(field: Node) -> bool:
    return len(json.dumps(field.get("default"))) > LONGEST_CELL


def _long_text(default: Any) -> str:
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)


def _bounds(field: Node) -> str:
    for node in _alternatives(field):
        numbers = node["prefixItems"][0] if "prefixItems" in node else node
        found = [
            f"{sign} {numbers[name]:g}" if isinstance(numbers[name], float) else
            f"{sign} {numbers[name]}"
            for name, sign in (
                ("minimum", "≥"), ("exclusiveMinimum", ">"),
                ("maximum", "≤"), ("exclusiveMaximum", "<"),
            )
            if name in numbers
        ]  # fmt: skip
        if found:
            return ", ".join(found)
    return ""


if __name__ == "__main__":
    print(reference(), end="")
