"""The `opsd` command on a policy without a model, in an empty directory with good.jsonl."""

from __future__ import annotations

from tests.support.cli import opsd

__all__ = ["opsd"]
