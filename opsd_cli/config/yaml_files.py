"""Reading YAML from untrusted files, with limits on length, nesting and alias expansion."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from opsd_cli.errors import ConfigError, UsageError

#: Limits of a config file: characters, nesting levels, and values after alias expansion.
LONGEST_TEXT = 2**20
DEEPEST = 32
LARGEST_TREE = 100_000


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2 (in which 1e-4 is a number); raises `ConfigError` with the line.

    Text beyond the limits is refused before it is built: a few lines of aliases can expand to
    billions of values.
    """
    if len(text) > LONGEST_TEXT:
        raise ConfigError(
            f"{where} is longer than {LONGEST_TEXT:,} characters", "a config is a few dozen lines"
        )
    try:
        if "*" in text and "&" in text:
            _refuse_expansion(_reader().compose(text), where)
        tree = _reader().load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError(f"{where}{line}: {problem}", "check indentation and colons") from error
    except RecursionError as error:
        raise _too_deep(where) from error
    except ConfigError:
        raise
    except Exception as error:  # a date with a month 13, a number of ten thousand digits
        reason = str(error).partition("\n")[0][:80]
        raise ConfigError(f"{where}: not valid YAML: {reason}", "quote what is text") from error
    if not _shallow(tree, DEEPEST):
        raise _too_deep(where)
    return tree


def _reader() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    # The YAML standard allows an anchor to be redefined, so ruamel's warning is noise.
    yaml.composer.warn_double_anchors = False
    return yaml


def compose(text: str) -> Any:
    """The node graph of a YAML text, whose nodes know their lines; raises `YAMLError`."""
    return _reader().compose(text)


def _too_deep(where: str) -> ConfigError:
    return ConfigError(f"{where} is nested more than {DEEPEST} deep", "no config key is")


def _shallow(value: Any, depth: int) -> bool:
    """True if a value is nested at most `depth` levels deep."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple | set):
        return True
    return depth > 0 and all(_shallow(item, depth - 1) for item in value)


def _refuse_expansion(root: Any, where: str) -> None:
    """Raise `ConfigError` if alias expansion exceeds `LARGEST_TREE` or is cyclic.

    An iterative post-order walk of the node graph, each node visited once.
    """
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting[-1]
        children = _children(node)
        fresh = [child for child in children if id(child) not in sizes]
        if fresh and id(node) not in entered:
            entered.add(id(node))
            waiting += fresh
            continue
        waiting.pop()
        if fresh:
            raise ConfigError(f"{where}: an alias stands for what it is part of", "write it out")
        sizes[id(node)] = min(2 * LARGEST_TREE, 1 + sum(sizes[id(child)] for child in children))
        if sizes[id(node)] > LARGEST_TREE:
            raise ConfigError(
                f"{where}: its aliases stand for more than {LARGEST_TREE:,} values",
                "a config has a few hundred: write out what is meant",
            )


def _children(node: Any) -> list[Any]:
    """The child nodes of a ruamel node: keys and values of a mapping, items of a sequence."""
    if not isinstance(node.value, list):
        return []
    return [each for item in node.value for each in (item if isinstance(item, tuple) else (item,))]


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping in a config file; empty if the file is; raises `ConfigError`."""
    try:
        with path.open(encoding="utf-8") as file:  # a device or a pipe can be endless
            text = file.read(LONGEST_TEXT + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read config {path}: {reason}", "give a YAML file") from error
    tree = read_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds a {type(tree).__name__}, not a mapping", "write lines like `seed: 1`"
        )
    return tree


def refuse_existing(file: Path, hint: str) -> None:
    """Raise `UsageError` with a hint if there is something at the path of a new config already."""
    if os.path.lexists(file):
        raise UsageError(f"{file} exists already", hint)


def write_new(file: Path, text: str) -> None:
    """Write a config to a new file; raises `UsageError` if it exists or cannot be written."""
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError as error:
        raise UsageError(f"{file} exists already", "give another name") from error
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}", "give another place") from error
