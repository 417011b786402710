"""The tokenizer's files of an exported model: the base's, readable with transformers 4 and 5."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from backends.shared.tokenizer_files import save_tokenizer
from tests.support.backend_fixtures import Load
from tests.support.tiny_models import END

MODEL, CONFIG = "tokenizer.model", "tokenizer_config.json"


def settings_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found


@pytest.fixture
def base(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model whose tokenizer has what transformers 5 does not write."""
    folder = tmp_path / "base"
    shutil.copytree(model_folder("llama"), folder)
    (folder / MODEL).write_bytes(b"sentencepiece")
    (folder / CONFIG).write_text(json.dumps({**settings_of(folder), "add_bos_token": False}))
    return folder


def test_merged_model_has_the_tokenizer_files_of_its_base(
    load: Load, base: Path, tmp_path: Path
) -> None:
    load(model=str(base)).save_merged(tmp_path / "merged")
    for name in (MODEL, CONFIG, "tokenizer.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.parametrize(
    ("written", "readable"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"extra_special_tokens": [END]}, {"additional_special_tokens": [END]}),
        ({"extra_special_tokens": {"image": END}}, {"extra_special_tokens": {"image": END}}),
    ],
)
def test_saved_tokenizer_of_transformers_5_is_spelled_for_transformers_4(
    base: Path, tmp_path: Path, written: dict[str, Any], readable: dict[str, Any]
) -> None:
    """llama.cpp's conversion is built on transformers 4, which refuses a class and a list here."""
    plain = settings_of(base)
    (base / CONFIG).write_text(json.dumps({**plain, **written}))
    tokenizer = AutoTokenizer.from_pretrained(base)
    save_tokenizer(tokenizer, base, tmp_path / "saved")
    assert settings_of(tmp_path / "saved") == {**plain, **readable}
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.encode(f"12{END}") == tokenizer.encode(f"12{END}")
    assert set(again.all_special_tokens) == set(tokenizer.all_special_tokens)


def test_saved_tokenizer_with_code_of_its_own_keeps_the_place_of_the_code(tmp_path: Path) -> None:
    class Custom:
        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir()
            (folder / CONFIG).write_text('{"auto_map": {"AutoTokenizer": "org/model--code.Own"}}')

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / CONFIG).write_text('{"auto_map": {"AutoTokenizer": "code.Own"}}')
    save_tokenizer(Custom(), tmp_path / "base", tmp_path / "saved")
    assert settings_of(tmp_path / "saved")["auto_map"] == {"AutoTokenizer": "org/model--code.Own"}
