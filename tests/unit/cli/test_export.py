"""`opsd export`: what it writes, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from backends.shared import adapter_files
from opsd_cli.cli.console import Output
from opsd_cli.cli.terminal import PlainConsole
from opsd_cli.config.resolve import resolve
from opsd_cli.exporting import FORMATS
from tests.support.cli import Opsd


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A rank-2 adapter on one layer."""
    random = np.random.default_rng(0)
    layer = "base_model.model.model.layers.3.self_attn.q_proj"
    weights = {
        f"{layer}.lora_A.weight": random.normal(size=(2, 4)).astype(np.float32),
        f"{layer}.lora_B.weight": random.normal(size=(6, 2)).astype(np.float32),
    }
    settings = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"],
        "use_dora": False, "use_rslora": False, "base_model_name_or_path": "org/base",
    }  # fmt: skip
    adapter_files.write_peft(tmp_path / "adapter", weights, settings)
    return tmp_path / "adapter"


def test_export_mlx_files_name_the_layer_and_the_scale(
    opsd: Opsd, adapter: Path, tmp_path: Path
) -> None:
    code, out, err = opsd("export adapter --format mlx --out there --json")
    assert code == 0, err
    assert json.loads(out) == {"adapter": "adapter", "format": "mlx", "out": "there"}
    settings = json.loads((tmp_path / "there" / "adapter_config.json").read_text())
    assert settings["lora_parameters"] == {
        "rank": 2, "scale": 1.5, "dropout": 0.0, "keys": ["self_attn.q_proj"],
    }  # fmt: skip
    weights = adapter_files.read_weights(tmp_path / "there")
    for name, array in adapter_files.read_weights(adapter).items():
        assert (weights[name] == array).all()


def test_export_refuses_a_used_directory(opsd: Opsd, adapter: Path, tmp_path: Path) -> None:
    assert opsd("export adapter --out there")[0] == 0
    before = (tmp_path / "there" / "adapter_config.json").read_bytes()
    code, _, err = opsd("export adapter --format mlx --out there")
    assert code == 2 and err.startswith("error: ") and "hint: " in err
    assert (tmp_path / "there" / "adapter_config.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "there", "good.jsonl"}


def test_export_dry_run_writes_nothing(opsd: Opsd, adapter: Path, tmp_path: Path) -> None:
    code, out, _ = opsd("export adapter --format mlx --dry-run")
    assert code == 0 and "exports/adapter-mlx" in out
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("export adapter --format gguf", 2, "unknown format 'gguf'"),
        ("export adapter --format merged --dtype int8", 2, "unknown dtype 'int8'"),
        ("export adapter --dtype float16", 2, "--format peft writes an adapter"),
        ("export nothing", 2, "there is no adapter at nothing"),
        ("export .", 2, "holds no adapter"),
    ],
)
def test_export_refuses_bad_input(
    opsd: Opsd, adapter: Path, tmp_path: Path, command: str, code: int, said: str
) -> None:
    found, _, err = opsd(command)
    assert found == code and said in err and "hint: " in err


def test_export_of_truncated_weights_leaves_nothing(
    opsd: Opsd, adapter: Path, tmp_path: Path
) -> None:
    file = adapter / adapter_files.WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-8])
    code, _, err = opsd("export adapter --format mlx --out there")
    assert code == 2 and "cannot be read" in err
    assert not (tmp_path / "there").exists() and not (tmp_path / ".there.partial").exists()


@pytest.mark.parametrize(
    ("kind", "older", "warned"),
    [("llama", {}, True), ("llama", {"rope_theta": 500.0}, False), ("qwen3", {}, False)],
)
def test_export_warns_of_a_base_that_plain_mlx_lm_misreads(
    opsd: Opsd, adapter: Path, tmp_path: Path, kind: str, older: dict[str, float], warned: bool
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    parameters = {"rope_theta": 500.0, "rope_type": "default"}
    settings = {"model_type": kind, "rope_parameters": parameters, **older}
    (base / "config.json").write_text(json.dumps(settings))
    (base / "model.safetensors").write_bytes(b"")
    export = "export adapter --format mlx --out there --model base"
    assert ("does not read rope_parameters" in opsd(f"{export} --dry-run")[2]) == warned
    code, out, err = opsd(export)
    assert code == 0 and ("does not read rope_parameters" in err) == warned
    card = (tmp_path / "there" / "README.md").read_text()
    command = "opsd export adapter --format merged --model base"
    for text in (out, card):
        assert ("mlx_lm.generate" in text or "from mlx_lm import" in text) != warned
        assert (f"{command}\n" in text) == warned
    assert ("**Caution:** plain mlx_lm" in card) == warned
    if warned:
        assert err.splitlines()[-1].startswith("warning: plain mlx_lm")


def test_export_command_is_whole_on_a_narrow_terminal(
    opsd: Opsd, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    settings = {"model_type": "llama", "rope_parameters": {"rope_theta": 500.0}}
    (base / "config.json").write_text(json.dumps(settings))
    (base / "model.safetensors").write_bytes(b"")
    file = io.StringIO()
    terminal = PlainConsole(file=file, width=30, force_terminal=True, color_system=None)
    monkeypatch.setattr(Output, "results", terminal)
    assert opsd("export adapter --format mlx --out there --model base")[0] == 0
    assert "opsd export adapter --format merged --model base\n" in file.getvalue()


@pytest.mark.parametrize("command", [True, False])
def test_usage_of_a_merged_model_has_a_command_of_mlx_lm_where_it_is_in_use(
    adapter: Path, command: bool
) -> None:
    config = resolve(None, [f"adapter={adapter}"])
    usage = FORMATS["merged"].usage(Path("there"), config, with_mlx=command)
    assert ("mlx_lm.generate" in usage) == command
    assert ("transformers or vLLM: the code is in there/README.md" in usage) != command


def test_export_prints_a_command_that_asks_with_the_prompt_of_training(
    opsd: Opsd, adapter: Path, tmp_path: Path
) -> None:
    run = tmp_path / "my run"
    checkpoint = run / "checkpoints" / "step-000001"
    checkpoint.parent.mkdir(parents=True)
    adapter.rename(checkpoint)
    (run / "config.yaml").write_text("model: org/base\nseed: 7\n")
    config = resolve(None, ["model=org/base", f"adapter={checkpoint}"])
    asked = "opsd sample 'What is 2 + 3?' --config"
    for form, named in (("peft", "--adapter there"), ("merged", "--model there")):
        command = FORMATS[form].own_command(Path("there"), config)
        assert command == f"{asked} '{run}/config.yaml' {named}"
    code, out, err = opsd(f"export '{checkpoint}' --out there")
    assert code == 0 and f"\n{asked} '{run}/config.yaml' --adapter there\n" in out, err


def test_export_of_an_adapter_without_a_run_prints_no_command_of_its_own(adapter: Path) -> None:
    config = resolve(None, [f"adapter={adapter}"])
    assert FORMATS["peft"].own_command(Path("there"), config) is None
