"""Models and adapters whose files are hostile: refused in one line, in bounded time and memory."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from backends.interface import Backend
from backends.shared import adapter_files, adapter_targets, weight_files
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from tests.support import oracle
from tests.support.backend_fixtures import LORA

TURNS = [{"role": "user", "content": "hello"}]
Refused = Callable[..., str]


@pytest.fixture
def refused(backend: Backend) -> Refused:
    """Loads what must not load; returns message and hint, a line each."""

    def attempt(**sections: Any) -> str:
        with pytest.raises(ModelError) as caught:
            backend.load(Config(**{"lora": LORA, **sections}), True)
        for line in (caught.value.message, caught.value.hint):
            assert line and "\n" not in line and len(line) < 700
        return f"{caught.value.message} -- {caught.value.hint}"

    return attempt


@pytest.fixture
def copy(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(model_folder("qwen3"), tmp_path / "model"))


@pytest.fixture
def adapter(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """An adapter of that model's, which a test may damage."""
    return oracle.random_adapter(model_folder("qwen3"), tmp_path / "adapter", 1)


def write_index(folder: Path, file: str) -> None:
    names = load_file(folder / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / weight_files.INDEX).write_text(json.dumps(index))


# -- formats ------------------------------------------------------------------------------------


def test_weight_index_naming_another_format_is_refused(refused: Refused, copy: Path) -> None:
    """transformers would unpickle it."""
    import torch

    write_index(copy, "pytorch_model.bin")
    tensors = {name: torch.tensor(a) for name, a in load_file(copy / "model.safetensors").items()}
    torch.save(tensors, copy / "pytorch_model.bin")
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    said = refused(model=str(copy))
    assert "'pytorch_model.bin', which is not safetensors" in said


@pytest.mark.parametrize("name", ["../other.safetensors", "/tmp/other.safetensors"])
def test_weight_index_leaving_its_folder_is_refused(
    refused: Refused, copy: Path, name: str
) -> None:
    write_index(copy, name)
    assert "outside its folder" in refused(model=str(copy))


def test_weight_index_naming_a_missing_file_is_refused(refused: Refused, copy: Path) -> None:
    write_index(copy, "model-00001-of-00002.safetensors")
    assert "which its index names" in refused(model=str(copy))


@pytest.mark.parametrize("in_adapter", [False, True])
def test_safetensors_header_of_a_million_tensors_is_not_parsed(
    refused: Refused,
    copy: Path,
    adapter: Path,
    in_adapter: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{n}": entry for n in range(1_000_000)}).encode()
    path = adapter / adapter_files.WEIGHTS_FILE if in_adapter else copy / weight_files.SINGLE
    path.write_bytes(struct.pack("<Q", len(header)) + header)

    plain = safetensors.safe_open

    def parse(file: Path, *arguments: Any, **named: Any) -> Any:
        assert file != path, "a library parsed it"
        return plain(file, *arguments, **named)

    monkeypatch.setattr("safetensors.safe_open", parse)
    said = refused(model=str(copy), adapter=str(adapter) if in_adapter else None)
    assert "its header of" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_are_refused(refused: Refused, copy: Path, value: float) -> None:
    path = copy / weight_files.SINGLE
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if "down_proj" in name)
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = value
    save_file(tensors, path, metadata={"format": "pt"})
    assert "what is not a number" in refused(model=str(copy))


def test_nan_adapter_is_refused(refused: Refused, copy: Path, adapter: Path) -> None:
    path = adapter / adapter_files.WEIGHTS_FILE
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path, metadata={"format": "pt"})
    said = refused(model=str(copy), adapter=str(adapter))
    assert name in said and "what is not a number" in said


def test_integer_adapter_is_refused(refused: Refused, copy: Path, adapter: Path) -> None:
    path = adapter / adapter_files.WEIGHTS_FILE
    tensors = {name: array.astype(np.int32) for name, array in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert "holds I32" in refused(model=str(copy), adapter=str(adapter))


# -- config.json --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1,000,000,000"),
        ({"vocab_size": 10**9}, "do not go with its config.json"),
        ({"vocab_size": 10**12}, "of "),
        ({"hidden_size": 10**30}, "hidden_size is 1e+30"),
        ({"intermediate_size": "many"}, "cannot be loaded"),
        ({"rope_parameters": {"rope_type": "yarn"}}, ""),
    ],
)
def test_config_sizes_beyond_any_memory_are_refused(
    refused: Refused, copy: Path, changes: dict[str, Any], said: str
) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert said in refused(model=str(copy))


SMALL = ("config.json", "generation_config.json", "tokenizer_config.json")


@pytest.mark.parametrize("file", SMALL)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ('{"a": ', "it is not JSON"),
        ("[1]", "no JSON object"),
        ('{"a": ' + "[" * 50_000 + "]" * 50_000 + "}", "nested too deeply"),
    ],
)
def test_damaged_json_files_are_refused(
    refused: Refused, copy: Path, file: str, text: str, said: str
) -> None:
    (copy / file).write_text(text)
    message = refused(model=str(copy))
    assert file in message and said in message


def test_invalid_stop_ids_are_refused(refused: Refused, copy: Path) -> None:
    (copy / "generation_config.json").write_text('{"eos_token_id": [0, "end"]}')
    assert "which is no token id" in refused(model=str(copy))


def test_model_and_adapter_in_one_folder_are_refused(
    refused: Refused, copy: Path, adapter: Path
) -> None:
    """transformers would load the adapter's base instead, from wherever it says."""
    shutil.copy(adapter / adapter_files.CONFIG_FILE, copy)
    assert "a model and an adapter in one folder" in refused(model=str(copy))


# -- adapters -----------------------------------------------------------------------------------

#: Python's own `re` takes days for it, and the library used here is not clever enough either.
BACKTRACKS = r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)\1\2\3[!?]"


def change(adapter: Path, **changes: Any) -> None:
    path = adapter / adapter_files.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_target_modules_regex_that_never_ends_is_refused(
    refused: Refused,
    copy: Path,
    adapter: Path,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_targets, "SECONDS", 0.05)
    change(adapter, **{key: BACKTRACKS})
    said = refused(model=str(copy), adapter=str(adapter))
    assert "takes too long" in said and "target_modules" in said


def test_rank_pattern_regex_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_targets, "SECONDS", 0.05)
    with pytest.raises(ModelError, match="takes too long"):
        adapter_targets.by_path({BACKTRACKS: 3}, ["model.layers.0.self_attn.q_proj"], "it")


def test_target_modules_regex_is_accepted(backend: Backend, copy: Path, adapter: Path) -> None:
    """And means what PEFT means by it."""
    plain = backend.load(Config(model=str(copy), adapter=str(adapter)), False)
    wanted = plain.score([((4, 5), (6, 7, 8))])[0]
    change(adapter, target_modules=r"model\.layers\.\d+\.(self_attn|mlp)\.(q|v|up|down)_proj")
    policy = backend.load(Config(model=str(copy), adapter=str(adapter)), True)
    assert (policy.score([((4, 5), (6, 7, 8))])[0] == wanted).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 65_536}, "its config says rank 65,536"),
        ({"r": "3"}, "r is"),
        ({"r": -3}, "r is"),
        ({"lora_alpha": float("nan")}, "lora_alpha is NaN"),
        ({"target_modules": 7}, "target_modules is 7"),
        ({"target_modules": "(q_proj"}, "no regular expression"),
        ({"layer_replication": [[0, 10**9]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "changing its base"),
        ({"use_dora": "yes"}, "use_dora is"),
    ],
)
def test_invalid_adapter_settings_are_refused(
    refused: Refused, copy: Path, adapter: Path, changes: dict[str, Any], said: str
) -> None:
    change(adapter, **changes)
    assert said in refused(model=str(copy), adapter=str(adapter))


def test_adapter_without_weights_for_a_named_layer_is_refused(
    refused: Refused, copy: Path, adapter: Path
) -> None:
    path = adapter / adapter_files.WEIGHTS_FILE
    tensors = {n: a for n, a in load_file(path).items() if "layers.1.mlp.up_proj" not in n}
    save_file(tensors, path, metadata={"format": "pt"})
    said = refused(model=str(copy), adapter=str(adapter))
    assert "does not fit the model: it lacks weights for model.layers.1.mlp.up_proj" in said
