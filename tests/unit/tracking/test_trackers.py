"""Experiment trackers: what they receive, when they close, and how one is added or dropped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ConfigError, UsageError
from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import EvaluationRow, Listener, StepRow
from opsd_cli.tracking.sinks import WandbSink
from opsd_cli.tracking.trackers import TRACKERS, require, tracking
from tests.support.cli import help_with


def step_row(step: int) -> StepRow:
    return StepRow(
        step=step, steps=3, loss=1.0 / step, grad_norm=2.0, learning_rate=0.1, reward=None,
        metrics={"entropy": 0.5, "divergence_by_class": {"digits": 0.25}, "method": "opsd"},
        ledger=TokenLedger(generated=10 * step), seconds=1.0, cpu_seconds=1.0,
        tokens_per_second=None, memory_peak=7,
    )  # fmt: skip


def evaluation_row(step: int, split: str) -> EvaluationRow:
    return EvaluationRow(
        step=step, split=split, accuracy=Estimate(0.5, 0.4, 0.6), truncated=0.0, no_answer=0.0,
        mean_tokens=9.0, generated=0, best=True, ledger=TokenLedger(), training_cpu_seconds=0.0,
        problems="x", correct=(1.0,),
    )  # fmt: skip


class Recorder:
    """Stands in for the run object of a tracker's package."""

    def __init__(self, fails: bool = False) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False
        self.fails = fails

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        print("a package that talks")
        if self.fails:
            raise ConnectionError("no such server")
        self.logged.append((step, dict(numbers)))

    def finish(self) -> None:
        self.finished = True


class Heard(Listener):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps: list[int] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def step(self, row: StepRow) -> None:
        self.steps.append(row.step)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Stand-ins for wandb and trackio; the arguments that each `init` was called with."""
    given: dict[str, Any] = {}
    for name in ("wandb", "trackio"):
        module = ModuleType(name)

        def init(which: str = name, **options: Any) -> Recorder:
            given[which] = {**options, "run": Recorder()}
            return given[which]["run"]

        module.init = init  # type: ignore[attr-defined]
        module.Settings = dict  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    yield given


def events(listener: Listener) -> None:
    listener.evaluation(evaluation_row(0, "test"))
    for step in (1, 2):
        listener.step(step_row(step))
    listener.evaluation(evaluation_row(1, "test"))  # the best checkpoint, measured last


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_tracker_gets_metrics_in_order_and_is_closed(
    name: str, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = Heard()
    with tracking([name], heard, tmp_path / "mine", {"seed": 1}, 0) as listener:
        events(listener)
    run = asked[name]["run"]
    assert run.finished and heard.steps == [1, 2] and not heard.warnings
    assert [step for step, _ in run.logged] == [0, 1, 2, 2]
    numbers = run.logged[1][1]
    assert numbers["train/loss"] == 1.0 and numbers["tokens/generated"] == 10
    assert numbers["monitors/entropy"] == 0.5
    assert numbers["monitors/divergence_by_class/digits"] == 0.25
    assert "monitors/method" not in numbers and "train/reward" not in numbers
    assert run.logged[3][1]["test/accuracy_low"] == 0.4
    assert asked[name]["name"] == "mine" and asked[name]["config"] == {"seed": 1}
    assert asked[name]["resume"] == "allow"
    assert capsys.readouterr().out == ""  # standard output is for results


def test_wandb_tracker_is_offline_by_default(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in (None, "online"):
        if mode:
            monkeypatch.setenv("WANDB_MODE", mode)
        with tracking(["wandb"], Listener(), tmp_path, {}, 0):
            pass
        assert asked["wandb"]["mode"] == (mode or "offline")


def test_tracker_that_fails_is_dropped_and_the_others_continue(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    heard = Heard()
    with tracking(["wandb", "trackio"], heard, tmp_path, {}, 0) as listener:
        asked["wandb"]["run"].fails = True
        events(listener)
    assert len(asked["trackio"]["run"].logged) == 4 and heard.steps == [1, 2]
    assert heard.warnings == ["--log wandb stops here: ConnectionError: no such server"]


def test_tensorboard_tracker_writes_the_metrics(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    with tracking(["tensorboard"], Listener(), tmp_path, {}, 0) as listener:
        events(listener)
    (file,) = (tmp_path / "tensorboard").glob("events*")
    data, place = file.read_bytes(), 0
    found: dict[str, dict[int, float]] = {}
    while place < len(data):  # length, its checksum, the record, its checksum
        size = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + size])
        place += 16 + size
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    assert found["train/loss"] == {1: 1.0, 2: 0.5}
    assert found["test/accuracy"].keys() == {0, 2}


def test_tracker_names_its_missing_package_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WandbSink, "module", "not_a_module_here")
    with pytest.raises(UsageError, match="--log wandb needs the package wandb") as refused:
        require(["wandb"])
    assert refused.value.hint == "pip install wandb"


class MemorySink:
    """A tracker from outside the package: keeps what it is given."""

    module = "json"
    package = "a-package"
    opened: ClassVar[list[MemorySink]] = []

    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.closed = False
        self.opened.append(self)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(numbers)))

    def close(self) -> None:
        self.closed = True


def test_tracker_is_added_by_one_line_in_the_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'trackio', 'wandb' or 'tensorboard', got 'memory'"):
        resolve(None, ["log=[memory]"])
    monkeypatch.setitem(TRACKERS, "memory", f"{__name__}:MemorySink")
    monkeypatch.setattr(MemorySink, "opened", [])
    names = resolve(None, ["log=[memory]"]).log
    assert names == ("memory",)
    require(names)
    with tracking(names, Listener(), tmp_path, {}, 0) as listener:
        events(listener)
    (sink,) = MemorySink.opened
    assert [step for step, _ in sink.logged] == [0, 1, 2, 2] and sink.closed


def test_tracker_that_is_added_is_in_the_help() -> None:
    added = "from opsd_cli.tracking.trackers import TRACKERS; TRACKERS['memory'] = 'm:MemorySink'"
    assert "trackio|wandb|tensorboard|memory" in help_with(added, "train")
