"""What is said of a model's folder that has no tokenizer."""

from __future__ import annotations

from pathlib import Path

from opsd_cli.errors import ModelError

#: Files that transformers makes a tokenizer from; every family has one of them.
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def no_tokenizer(folder: Path, name: str, code: bool) -> ModelError | None:
    """The error of a folder that holds no file of a tokenizer; None if it holds one.

    Args:
        name: of the model, for the error.
        code: whether the model's own code may be run, which could make a tokenizer.
    """
    if code or any((folder / file).is_file() for file in FILES):
        return None
    return ModelError(
        f"{name} has no tokenizer (tokenizer.json is missing)",
        "copy tokenizer.json and tokenizer_config.json from the model's repository into its folder",
    )
