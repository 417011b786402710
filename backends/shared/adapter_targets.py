"""The layers that an adapter's config selects, by PEFT's rules, checked against its weights.

`target_modules` is a list of names or one regular expression, and so is `exclude_modules`; the keys
of `rank_pattern` and `alpha_pattern` are expressions too. An expression that came with an adapter
may take for ever on a name of thirty letters, so matching has a time limit, and the backends'
libraries are given names alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex

from opsd_cli.errors import ModelError

#: Seconds to match one name; a harmless expression takes microseconds.
SECONDS = 2.0
#: Characters of an expression; one that lists every layer of the largest models has fewer.
_LONGEST = 20_000
_ALL = "all-linear"
TOGETHER = "copy both of its files from one place"


def named(settings: Mapping[str, Any], paths: Iterable[str], what: str) -> list[str]:
    """The model's layers that an adapter's config selects.

    Args:
        settings: `adapter_files.read_settings`.
        paths: the layers that could have an adapter.
        what: names the adapter in the message.

    Raises:
        ModelError: an expression is invalid, or takes too long.
    """
    targets, excluded = settings.get("target_modules"), settings.get("exclude_modules")
    found = []
    for path in paths:
        if excluded and _is_one_of(excluded, path, what):
            continue
        if targets in (None, _ALL) or (
            _is_one_of(targets, path, what)
            and (isinstance(targets, str) or path in targets or _in_a_layer(settings, path))
        ):
            found.append(path)
    return found


def require_same_layers(
    settings: Mapping[str, Any], of_weights: Sequence[str], of_model: Sequence[str], what: str
) -> None:
    """Check that the config selects exactly the layers that there are weights for.

    Args:
        settings: the adapter's.
        of_weights: the layers that it has weights for.
        of_model: the layers that could have an adapter.
        what: names the adapter in the message.

    Raises:
        ModelError: it does not.
    """
    chosen = set(named(settings, [*of_weights, *of_model], what))
    for path in of_weights:
        if path not in chosen:
            raise ModelError(
                f"{what} does not fit itself: it has weights for {path}, which its "
                "target_modules do not name",
                TOGETHER,
            )
    if settings.get("target_modules") in (None, _ALL):
        return
    for path in of_model:
        if path in chosen and path not in of_weights:
            raise ModelError(
                f"{what} does not fit the model: it lacks weights for {path}, which its "
                "target_modules name",
                TOGETHER,
            )


def by_path(
    pattern: Mapping[str, float] | None, paths: Sequence[str], what: str
) -> dict[str, float]:
    """`rank_pattern` or `alpha_pattern` with layers' paths in place of expressions."""
    if not pattern:
        return {}
    found = {}
    for path in paths:
        for key, value in pattern.items():
            if _matches(rf"(?:.*\.)?(?:{key})", path, what):
                found[path] = value
                break
    return found


def _is_one_of(names: str | Sequence[str], path: str, what: str) -> bool:
    if isinstance(names, str):
        return _matches(names, path, what)
    return any(path == name or path.endswith(f".{name}") for name in names)


def _in_a_layer(settings: Mapping[str, Any], path: str) -> bool:
    """True if a layer's block is among `layers_to_transform`, or those are not given."""
    blocks, kinds = settings.get("layers_to_transform"), settings.get("layers_pattern")
    if blocks is None or blocks == []:
        return True
    kinds = [kinds] if isinstance(kinds, str) else kinds
    parts = path.split(".")
    for index in range(1, len(parts) - 1):
        if not parts[index].isdecimal() or (not kinds and index < 2):
            continue
        if not kinds or parts[index - 1] in kinds:
            return int(parts[index]) in ([blocks] if isinstance(blocks, int) else blocks)
    return False


def _matches(expression: str, path: str, what: str) -> bool:
    if len(expression) > _LONGEST:
        raise ModelError(
            f"{what} names its layers by an expression of {len(expression):,} characters",
            "list the layers' names in target_modules",
        )
    try:
        return regex.fullmatch(expression, path, timeout=SECONDS) is not None
    except TimeoutError:
        raise ModelError(
            f"{what} names its layers by an expression that takes too long: {expression[:60]!r}",
            "list the layers' names in target_modules",
        ) from None
    except (regex.error, RecursionError, MemoryError, OverflowError) as error:
        raise ModelError(
            f"{what} names its layers by what is no regular expression: {expression[:60]!r} "
            f"({' '.join(str(error).split())[:80]})",
            "list the layers' names in target_modules",
        ) from error
