"""Conformance: what loading says about a model, and about one that cannot be loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.interface import Backend
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from tests.support import oracle
from tests.support.backend_fixtures import LORA, Load


@pytest.fixture
def refused(backend: Backend) -> Callable[..., ModelError]:
    """Loads what must not load; returns the error, which is one line with a hint."""

    def attempt(trainable: bool = True, **sections: object) -> ModelError:
        with pytest.raises(ModelError) as caught:
            backend.load(Config(**{"lora": LORA, **sections}), trainable)
        error = caught.value
        assert error.message and "\n" not in error.message
        assert error.hint and "\n" not in error.hint
        return error

    return attempt


@pytest.fixture
def copy(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(model_folder("qwen3"), tmp_path / "model"))


def test_a_loaded_policy_describes_itself(load: Load) -> None:
    policy = load()
    assert "Qwen3" in policy.description and "float32" in policy.description
    assert policy.context_limit == 256
    assert policy.tokenizer.decode(policy.tokenizer.encode("1+2=")) == "1+2="


def test_stop_ids_fall_back_to_the_tokenizers_eos(load: Load, copy: Path) -> None:
    (copy / "generation_config.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    config["eos_token_id"] = None
    (copy / "config.json").write_text(json.dumps(config))
    assert load(model=str(copy), trainable=False).stop_ids == {0}


def test_missing_model_path_is_refused(refused: Callable[..., ModelError], tmp_path: Path) -> None:
    error = refused(model=str(tmp_path / "nothing"))
    assert "no model folder at" in error.message and "nothing" in error.message


def test_file_as_model_folder_is_refused(refused: Callable[..., ModelError], copy: Path) -> None:
    error = refused(model=str(copy / "model.safetensors"))
    assert "is a file" in error.message and "did you mean a folder?" in error.hint


def test_folder_without_a_model_is_refused(
    refused: Callable[..., ModelError], tmp_path: Path
) -> None:
    assert "config.json is missing" in refused(model=str(tmp_path)).message


def test_adapter_given_as_the_model_is_refused(
    refused: Callable[..., ModelError], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = oracle.random_adapter(model_folder("qwen3"), tmp_path / "adapter", 1)
    assert "--adapter" in refused(model=str(folder)).hint


def test_weights_in_another_format_are_refused(
    refused: Callable[..., ModelError], copy: Path
) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "no *.safetensors" in refused(model=str(copy)).message


def test_truncated_weights_are_refused(refused: Callable[..., ModelError], copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be loaded" in refused(model=str(copy)).message


def test_weights_of_another_model_are_refused(
    refused: Callable[..., ModelError], model_folder: Callable[[str], Path], copy: Path
) -> None:
    shutil.copy(model_folder("gemma2") / "model.safetensors", copy / "model.safetensors")
    message = refused(model=str(copy)).message
    assert "do not go with its config.json" in message
    assert re.search(r"model\.layers\.0\.\S+\.weight and \d+ more", message)


def test_weights_of_another_size_are_refused(
    refused: Callable[..., ModelError], copy: Path
) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 28}))
    assert "_proj.weight" in refused(model=str(copy)).message


def test_config_that_is_not_json_is_refused(refused: Callable[..., ModelError], copy: Path) -> None:
    (copy / "config.json").write_text("{")
    assert "cannot be loaded" in refused(model=str(copy)).message


def test_model_without_a_causal_head_is_refused(
    refused: Callable[..., ModelError], copy: Path
) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert "not a causal language model" in refused(model=str(copy)).message


def test_folder_without_a_tokenizer_is_refused(
    refused: Callable[..., ModelError], copy: Path
) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in refused(model=str(copy)).message


def test_hub_id_without_a_connection_is_refused(refused: Callable[..., ModelError]) -> None:
    error = refused(model="nobody/nothing-of-this-name")
    assert "not in the cache" in error.message and "offline" in error.message
    assert "name a local folder" in error.hint


def test_unknown_lora_targets_are_refused(
    refused: Callable[..., ModelError], model_folder: Callable[[str], Path]
) -> None:
    error = refused(model=str(model_folder("qwen3")), lora={"targets": ["q_proj", "c_attn"]})
    assert "'c_attn'" in error.message and "'q_proj'" not in error.message
    for name in ("q_proj", "gate_proj", "down_proj"):
        assert name in error.hint


def test_output_head_as_lora_target_is_refused(
    refused: Callable[..., ModelError], model_folder: Callable[[str], Path]
) -> None:
    error = refused(model=str(model_folder("llama")), lora={"targets": ["lm_head"]})
    assert "'lm_head'" in error.message and "lm_head" not in error.hint


def test_starting_adapter_of_another_model_is_refused(
    refused: Callable[..., ModelError], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = oracle.random_adapter(model_folder("qwen3"), tmp_path / "adapter", 1)
    settings = json.loads((folder / "adapter_config.json").read_text())

    def write(**changes: object) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}))

    def message() -> str:
        return refused(model=str(model_folder("qwen3")), adapter=str(folder)).message

    write(r=4)
    assert "does not fit" in message()
    write(target_modules=["c_attn"])
    assert "does not fit" in message()
    write(peft_type="IA3")
    assert "not LoRA" in message()
    write(modules_to_save=["lm_head"])
    assert "modules_to_save" in message()
    write(bias="all")
    assert "bias" in message()
    (folder / "adapter_config.json").write_text("[]")
    assert "cannot be understood" in message()
    assert "holds no adapter" in (
        refused(model=str(model_folder("qwen3")), adapter=str(tmp_path / "no")).message
    )
