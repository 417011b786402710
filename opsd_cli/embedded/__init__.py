"""The embedded model: the path of its files, its pretraining corpus and its tokenizer.

`model/` holds a Qwen3-architecture model of under a million parameters with its tokenizer, chat
template and model card. `python -m opsd_cli.embedded --out DIR` rebuilds it from a seed.
"""

from __future__ import annotations

from pathlib import Path

#: The name of the embedded model, its preset and its problems, as config keys and flags take it.
EMBEDDED = "embedded"
MODEL_DIR = Path(__file__).parent / "model"
