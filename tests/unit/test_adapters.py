"""Which adapter a path stands for: a run's checkpoint by name or step, and its base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import backends
import opsd_cli
from opsd_cli.adapters import base_model_of, refuse_other_base
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ModelError, UsageError
from tests.support.bad_input import GOOD
from tests.support.cli import typed

QUICK: dict[str, Any] = {
    "data.train": "good.jsonl", "train.steps": 4, "train.evaluate_every": 2,
    "train.questions_per_step": 8, "train.checkpoint_every": 2, "train.keep_checkpoints": 9,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with good.jsonl, and a policy without a model."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD)
    return tmp_path


@pytest.fixture
def unlearned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in which no step was better on validation than step 0."""
    monkeypatch.setattr("tests.support.fakes.FakePolicy.apply", lambda self, rate: 1.0)
    opsd_cli.train(opsd_cli.load_config(**QUICK), "run")
    assert (folder / "run" / "best").read_text() == "step-000000\n"
    return folder / "run"


def step(config: opsd_cli.Config) -> int:
    assert config.adapter is not None
    return int(config.adapter.rpartition("step-")[2])


def test_checkpoint_best_last_and_step_of_a_run(unlearned: Path) -> None:
    assert step(opsd_cli.load_config("run")) == 0
    assert step(opsd_cli.load_config("run", checkpoint="best")) == 0
    assert step(opsd_cli.load_config("run", checkpoint="last")) == 4
    assert step(opsd_cli.load_config("run", checkpoint=4)) == 4
    assert step(opsd_cli.load_config("embedded", checkpoint="4", adapter="run")) == 4
    config = opsd_cli.load_config(**QUICK)
    assert step(opsd_cli.load_config(config, checkpoint="last", adapter="run")) == 4
    with pytest.raises(ModelError, match="no checkpoint of step 3; it has 0, 2, 4"):
        opsd_cli.load_config("run", checkpoint=3)
    with pytest.raises(UsageError, match="no run is given"):
        opsd_cli.load_config(checkpoint="last")
    policy = opsd_cli.load_policy("run", checkpoint="last", trainable=False)
    assert policy.description == "a fake"
    with pytest.raises(ModelError, match="no checkpoint of step 3"):
        opsd_cli.load_policy("run", checkpoint=3)


@pytest.mark.parametrize(
    "command",
    ["sample '1 + 2' --adapter run", "eval --adapter run --benchmark good.jsonl --limit 1 --out e",
     "export run --out x", "export run --format merged --out x", "export run --dry-run"],
)  # fmt: skip
def test_untrained_best_checkpoint_is_said_by_sample_eval_and_export(
    unlearned: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.setattr("backends.shared.adapter_files.read_settings", lambda folder: {})
    monkeypatch.setattr("backends.shared.adapter_files.read_weights", lambda folder: {})
    said = "step-000000 holds the untrained weights: no later step was better on validation"
    assert typed(command, monkeypatch) == 0
    assert capsys.readouterr().err.count(said) == 1
    for path in (unlearned.parent / "x", unlearned.parent / "e"):
        if path.exists():
            path.rename(path.with_name("before"))
    assert typed(f"{command} --checkpoint last", monkeypatch) == 0
    assert said not in capsys.readouterr().err


def test_untrained_best_checkpoint_is_said_at_the_end_of_the_run(
    unlearned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("train --resume --out run", monkeypatch) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "no step was better than the untrained model on validation" in err
    assert "step 4 with --checkpoint last" in err
    assert "opsd sample --adapter run --checkpoint last --divergence" in err


def test_untrained_warning_is_absent_where_a_step_was_better(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = " ".join(f"--set {key}={value}" for key, value in QUICK.items())
    assert typed(f"train --out run {settings}", monkeypatch) == 0
    assert typed("sample '1 + 2' --adapter run", monkeypatch) == 0
    assert "untrained" not in capsys.readouterr().err


def test_checkpoint_folder_has_the_config_of_its_run(unlearned: Path) -> None:
    from opsd_cli.loading import resolved_config

    (unlearned / "config.yaml").write_text("seed: 7\nmodel: some/model\n")
    folder = "run/checkpoints/step-000004"
    config = resolved_config(None, (), {"adapter": folder}, inherit=True)
    assert (config.model, config.seed, config.adapter) == ("some/model", 7, folder)
    # As before where a model is named.
    config = resolved_config(None, (), {"adapter": folder, "model": "m"}, inherit=True)
    assert (config.model, config.seed) == ("m", 0)


@pytest.mark.parametrize(
    ("settings", "flags", "model"),
    [
        ({"base_model_name_or_path": "org/base"}, {}, "org/base"),
        ({"model": "org/base", "lora_parameters": {}}, {}, "org/base"),
        ({"base_model_name_or_path": "org/base"}, {"model": "org/copy"}, "org/copy"),
        ({"base_model_name_or_path": "/elsewhere/opsd_cli/embedded/model"}, {}, "embedded"),
        ({"base_model_name_or_path": 3}, {}, "embedded"),
        ({}, {}, "embedded"),
    ],
)
def test_adapter_names_its_base_model(
    folder: Path, settings: dict[str, Any], flags: dict[str, Any], model: str
) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "adapter_config.json").write_text(json.dumps(settings))
    assert opsd_cli.load_config(adapter="a", **flags).model == model
    assert base_model_of(folder / "a") in (model, "org/base", None)


def test_adapter_of_another_base_model_is_refused_by_both_names(folder: Path) -> None:
    for name, width in (("one", 8), ("copy", 8), ("other", 16)):
        (folder / name).mkdir()
        shape = {"model_type": "qwen3", "hidden_size": width}
        (folder / name / "config.json").write_text(json.dumps(shape))
    (folder / "a").mkdir()
    (folder / "a" / "adapter_config.json").write_text('{"base_model_name_or_path": "one"}')
    for name in ("one", "copy", "org/unknown"):
        refuse_other_base(resolve(flags={"model": name, "adapter": "a"}))
    with pytest.raises(ModelError, match="made for the model one, and this is other: its hidden"):
        opsd_cli.load_policy(opsd_cli.load_config(model="other", adapter="a"))
