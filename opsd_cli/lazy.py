"""Classes named by "module:Class", imported only when they are used: what every registry holds."""

from __future__ import annotations

import importlib
from typing import Any


def load(target: str) -> Any:
    """What "module:name" stands for.

    Raises:
        ImportError: the module, or a package that it needs, is not installed.
        AttributeError: the module has no such name.
    """
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
