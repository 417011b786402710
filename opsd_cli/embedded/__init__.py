"""The embedded model: where its files are, and the texts it was built from.

`model/` holds a Qwen3-architecture network of under a million parameters with its tokenizer, chat
template and card. `python -m opsd_cli.embedded --out DIR` builds it again from a seed.
"""

from __future__ import annotations

from pathlib import Path

#: What `model: embedded` in a config stands for.
NAME = "embedded"
MODEL_DIR = Path(__file__).parent / "model"
