"""An adapter means the same wherever it is loaded: other backend, peft, mlx-lm, merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import backends
from backends.interface import Backend, DivergenceBatch, DivergenceItem, Policy
from backends.shared import adapter_files
from backends.shared.model_files import write_both_spellings
from backends.shared.weight_files import stored_dtype
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support.backend_fixtures import LORA, Load

ITEMS = (
    DivergenceItem((5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 0), 0.5),
    DivergenceItem((4,), (9, 4), (0,), 1.0),
)
BATCH = DivergenceBatch(ITEMS, DivergenceSpec("jsd"), "initial")
PAIRS = [(item.student_prompt, item.completion) for item in ITEMS]
IDS = (5, 6, 7, 12, 13, 14)
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"dora": True},
    "rslora": {"rslora": True},
}

Trained = Callable[..., Path]


@pytest.fixture
def trained(load: Load, tmp_path: Path) -> Trained:
    """The folder of an adapter of some kind after two steps, on the backend under test."""

    def folder(family: str = "llama", kind: str = "lora") -> Path:
        policy = load(family, lora={**LORA, **KINDS[kind]})
        for _ in range(2):
            policy.accumulate(BATCH)
            policy.apply(0.05)
        policy.save_adapter(tmp_path / "trained")
        return tmp_path / "trained"

    return folder


def loaded(backend: str, model: Path, adapter: Path | None) -> Policy:
    given = None if adapter is None else str(adapter)
    config = Config(model=str(model), adapter=given, train={"dtype": "float32"})
    return backends.get(backend).load(config, trainable=False)


def scores(policy: Policy) -> np.ndarray:
    return np.concatenate(policy.score(PAIRS))


def torch_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()


def mlx_logits(model: Any) -> np.ndarray:
    import mlx.core as mx

    return np.array(model(mx.array([IDS]))[0].astype(mx.float32))


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-4 * float(np.abs(b).max())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_adapter_gives_the_same_scores_on_another_backend(
    backend: Backend, trained: Trained, model_folder: Callable[[str], Path], family: str, kind: str
) -> None:
    adapter = trained(family, kind)
    model = model_folder(family)
    own = scores(loaded(backend.name, model, adapter))
    base = scores(loaded(backend.name, model, None))
    assert not np.allclose(own, base, atol=1e-2)
    for other in ("cpu", "mlx"):
        if other != backend.name and backends.get(other).capability().available:
            assert close(scores(loaded(other, model, adapter)), own), other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_plain_mlx_lm_loads_what_is_exported(
    trained: Trained,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    kind: str,
) -> None:
    mlx_lm = pytest.importorskip("mlx_lm", exc_type=ImportError)
    adapter = trained(family, kind)
    settings, weights = adapter_files.read_settings(adapter), adapter_files.read_weights(adapter)
    adapter_files.write_mlx(tmp_path / "mlx", weights, settings)
    # transformers 5 writes a spelling of the rotary embedding that plain mlx-lm does not read.
    readable = shutil.copytree(model_folder(family), tmp_path / "base")
    write_both_spellings(readable)
    model, _ = mlx_lm.load(str(readable), adapter_path=str(tmp_path / "mlx"))
    base = AutoModelForCausalLM.from_pretrained(model_folder(family))
    wanted = torch_logits(PeftModel.from_pretrained(base, adapter))
    assert close(mlx_logits(model), wanted)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapter_round_trip_through_mlx_lm_format_is_exact(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    adapter = trained("llama", kind)
    settings, weights = adapter_files.read_settings(adapter), adapter_files.read_weights(adapter)
    adapter_files.write_mlx(tmp_path / "mlx", weights, settings)
    back = adapter_files.read_settings(tmp_path / "mlx")
    assert adapter_files.scale_of(back) == adapter_files.scale_of(settings)
    for key in ("r", "lora_alpha", "use_dora"):
        assert back[key] == settings[key]
    assert set(back["target_modules"]) == set(settings["target_modules"])
    adapter_files.write_peft(tmp_path / "peft", adapter_files.read_weights(tmp_path / "mlx"), back)
    name = adapter_files.WEIGHTS_FILE
    first, last = load_file(adapter / name), load_file(tmp_path / "peft" / name)
    assert first.keys() == last.keys()
    assert all((first[key] == last[key]).all() for key in first)


def test_mlx_lm_adapter_is_accepted_as_starting_adapter(
    backend: Backend, trained: Trained, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = trained("llama")
    settings, weights = adapter_files.read_settings(adapter), adapter_files.read_weights(adapter)
    adapter_files.write_mlx(tmp_path / "mlx", weights, settings)
    model = model_folder("llama")
    theirs = scores(loaded(backend.name, model, tmp_path / "mlx"))
    assert (theirs == scores(loaded(backend.name, model, adapter))).all()


def test_bfloat16_adapters_are_read(
    backend: Backend, trained: Trained, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file as load_tensors
    from safetensors.torch import save_file as save_tensors

    adapter = trained("llama")
    file = adapter / adapter_files.WEIGHTS_FILE
    narrow = {name: t.bfloat16() for name, t in load_tensors(file).items()}
    save_tensors(narrow, file, metadata={"format": "pt"})
    found = adapter_files.read_weights(adapter)
    assert all((found[name] == tensor.float().numpy()).all() for name, tensor in narrow.items())
    assert np.isfinite(scores(loaded(backend.name, model_folder("llama"), adapter))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_merged_model_gives_the_logits_of_base_and_adapter(
    backend: Backend,
    trained: Trained,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    kind: str,
) -> None:
    adapter, model = trained(family, kind), model_folder(family)
    own = scores(loaded(backend.name, model, adapter))
    loaded(backend.name, model, adapter).save_merged(tmp_path / "merged")
    assert close(scores(loaded(backend.name, tmp_path / "merged", None)), own)
    base = AutoModelForCausalLM.from_pretrained(model)
    wanted = torch_logits(PeftModel.from_pretrained(base, adapter))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float32
    assert merged.generation_config.eos_token_id == base.generation_config.eos_token_id
    assert close(torch_logits(merged), wanted)
    mlx_lm = pytest.importorskip("mlx_lm", exc_type=ImportError)
    assert close(mlx_logits(mlx_lm.load(str(tmp_path / "merged"))[0]), wanted)


@pytest.mark.parametrize("says", [True, False], ids=["config_says_it", "files_say_it"])
def test_merged_model_has_the_dtype_of_its_base_or_the_one_asked_for(
    backend: Backend,
    trained: Trained,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    says: bool,
) -> None:
    adapter, model = trained("llama"), tmp_path / "narrow"
    shutil.copytree(model_folder("llama"), model)
    AutoModelForCausalLM.from_pretrained(model).bfloat16().save_pretrained(model)
    if not says:
        settings = json.loads((model / "config.json").read_text())
        del settings["dtype"]
        (model / "config.json").write_text(json.dumps(settings))
    for asked in (None, "float32", "float16"):
        folder = tmp_path / f"merged-{asked}"
        loaded(backend.name, model, adapter).save_merged(folder, asked)
        written = asked or "bfloat16"
        assert stored_dtype(folder) == written
        assert json.loads((folder / "config.json").read_text())["dtype"] == written
        (weights,) = folder.glob("*.safetensors")
        with safe_open(weights, "pt") as opened:
            kinds = {opened.get_tensor(name).dtype for name in opened.keys()}  # noqa: SIM118
        assert kinds == {getattr(torch, written)}


def test_mlx_lm_full_fine_tuning_weights_are_refused_as_adapter(trained: Trained) -> None:
    adapter = trained()
    written = {"fine_tune_type": "full", "lora_parameters": {}}
    (adapter / adapter_files.CONFIG_FILE).write_text(json.dumps(written))
    with pytest.raises(ModelError, match="fine_tune_type full"):
        adapter_files.read_settings(adapter)


@pytest.mark.parametrize("weights", ["initial", "ema"])
def test_checkpoint_resumes_on_another_backend(
    backend: Backend, load: Load, model_folder: Callable[[str], Path], tmp_path: Path, weights: str
) -> None:
    """Weights, moments, average and the adapter of the start: the next step is the same step."""
    load("llama").save_adapter(tmp_path / "start")
    teacher = {"weights": weights, "ema_decay": 0.5}
    sections: dict[str, Any] = {
        "model": str(model_folder("llama")),
        "adapter": str(tmp_path / "start"),
        "teacher": teacher,
        "train": {"dtype": "float32"},
    }
    batch = DivergenceBatch(ITEMS, DivergenceSpec("jsd"), weights)  # type: ignore[arg-type]
    own = backend.load(Config(**sections), True)
    for rate in (0.05, 0.03):
        own.accumulate(batch)
        own.apply(rate)
    own.save(tmp_path / "middle")

    def finish(policy: Policy, name: str) -> dict[str, np.ndarray]:
        policy.accumulate(batch)
        policy.apply(0.02)
        policy.save_adapter(tmp_path / name)
        return load_file(tmp_path / name / adapter_files.WEIGHTS_FILE)

    wanted = finish(own, "here")
    for other in ("cpu", "mlx"):
        if other == backend.name or not backends.get(other).capability().available:
            continue
        moved = backends.get(other).load(Config(**sections), True)
        moved.restore(tmp_path / "middle")
        found = finish(moved, other)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, atol=1e-4, err_msg=name)
