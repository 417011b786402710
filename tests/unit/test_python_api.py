"""The Python API: docs/python.md runs as it stands, and functions do what the commands do."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import backends
import opsd_cli
from opsd_cli import Config, Listener, Problem, errors
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ConfigError, DataError, ModelError, RunError, UsageError
from opsd_cli.tracking.listener import StepRow
from tests.support.bad_input import GOOD
from tests.support.cli import typed
from tests.support.fakes import FakePolicy

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
#: What the page's code leaves behind, as its reader would look at it.
LOOK = """
print("FOUND", json.dumps({
    "steps": result.steps,
    "improved": result.accuracy["best"].value >= result.accuracy["base"].value,
    "right": measured.accuracy.value,
    "samples": [sample.problem_id for sample in measured.samples],
    "in_memory": in_memory.accuracy.value,
    "methods": sorted(comparison.summary["methods"]),
    "verdict": comparison.verdict,
    "losses": losses,
    "wrong": len(wrong),
    "rollouts": len(rollouts),
    "heard": curve.losses,
    "validation": len(curve.validation),
    "error": error_seen,
}))
"""
QUICK = {"train.steps": 4, "train.evaluate_every": 2, "train.questions_per_step": 8}


def code_of_the_page() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    code = "\n".join(blocks)
    return code.replace("    print(error.message, error.hint)", "    error_seen = str(error)")


def test_the_python_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(code_of_the_page() + LOOK)
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("FOUND ")[2])
    assert found["steps"] == len(found["losses"]) == 2 and found["improved"]
    assert found["right"] in (0, 0.25, 0.5, 0.75, 1) and len(found["samples"]) == 4
    assert found["in_memory"] in (0, 1)
    assert found["methods"] == ["opsd", "sft"] and "target" in found["verdict"]
    assert found["rollouts"] == 8 and found["wrong"] < 8
    assert found["heard"] == found["losses"], "a run of the same config is the same run"
    assert found["validation"] == 2
    assert "unknown config key 'train.setps'" in found["error"]
    assert len(re.findall(r"^0\.\d+ nats a token$", done.stdout, re.MULTILINE)) == 2
    for name in (
        "run/report.html", "evaluation/results.json", "comparison/comparison.json",
        "exported/adapters.safetensors",
    ):  # fmt: skip
        assert (tmp_path / name).is_file(), name
    assert done.stderr == ""


def test_the_public_surface_is_exact_and_every_error_is_in_it() -> None:
    functions = {"load_config", "load_policy", "train", "evaluate", "compare"}
    tree = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert set(opsd_cli.__all__) == functions | tree | {"Config", "Problem", "Listener"}
    for name in opsd_cli.__all__:
        assert getattr(opsd_cli, name).__doc__ or name == "Config", name
    assert set(opsd_cli.__all__) <= set(dir(opsd_cli))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = opsd_cli.trian


def test_importing_opsd_cli_imports_nothing_else() -> None:
    look = "import sys, opsd_cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith(("opsd_cli", "backends"))} == {"opsd_cli"}
    assert not loaded & {"typer", "pydantic", "numpy", "ruamel.yaml", "rich", "torch", "mlx"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with good.jsonl, and a policy without a model."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD)
    return tmp_path


def small(**more: object) -> Config:
    return opsd_cli.load_config(**{**QUICK, "data.train": "good.jsonl", **more})


# -- configs -----------------------------------------------------------------------------------


def test_load_config_takes_what_set_takes(tmp_path: Path) -> None:
    assert opsd_cli.load_config() == resolve()
    assert opsd_cli.load_config("embedded", method="grpo") == resolve(
        "embedded", flags={"method": "grpo"}
    )
    dotted = opsd_cli.load_config("embedded", **{"train.steps": 5, "train.patience": None})
    assert dotted == resolve("embedded", ["train.steps=5", "train.patience=null"])
    assert opsd_cli.load_config(train={"steps": 5}).train.steps == 5
    (tmp_path / "mine.yaml").write_text("preset: embedded\nseed: 7\n")
    assert opsd_cli.load_config(tmp_path / "mine.yaml").seed == 7
    changed = opsd_cli.load_config(dotted, seed=3, **{"prompts.student.template": "{question} \n"})
    assert changed.seed == 3 and changed.train.steps == 5
    assert changed.prompts.student.template == "{question} \n"


@pytest.mark.parametrize(
    ("source", "overrides", "says"),
    [
        ("embeded", {}, "neither a preset nor a file"),
        (None, {"train.setps": 5}, "unknown config key 'train.setps'"),
        (None, {"train.steps": "many"}, "train.steps"),
    ],
)
def test_load_config_explains_mistakes(
    source: str | None, overrides: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        opsd_cli.load_config(source, **overrides)


def test_load_config_of_a_run_has_its_best_checkpoint(folder: Path) -> None:
    opsd_cli.train(small(seed=5), "run")
    config = opsd_cli.load_config("run", **{"evaluation.samples": 3})
    assert config.seed == 5 and config.evaluation.samples == 3
    assert config.adapter is not None and "checkpoints/step-" in config.adapter
    assert opsd_cli.load_config(small(), adapter="run").adapter == config.adapter
    with pytest.raises(ModelError, match="there is no adapter at nowhere"):
        opsd_cli.load_config(adapter="nowhere")


# -- training ----------------------------------------------------------------------------------


def test_train_gives_the_command_s_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = opsd_cli.train(small(), "run")
    assert capsys.readouterr() == ("", "")
    words = " ".join(f"--set {key}={value}" for key, value in QUICK.items())
    assert typed(f"train --out typed --json --set data.train=good.jsonl {words}", monkeypatch) == 0
    printed = json.loads(capsys.readouterr().out)
    mine = result.as_dict()
    for key in ("accuracy", "tokens", "best_step", "steps", "method", "backend"):
        assert mine[key] == printed[key], key
    files = {path.name for path in (folder / "run").iterdir()}
    assert files == {path.name for path in (folder / "typed").iterdir()}


def test_train_stops_resumes_and_tells_a_listener(folder: Path) -> None:
    class Steps(Listener):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def step(self, row: StepRow) -> None:
            self.seen.append(row.step)

    listener = Steps()
    with pytest.raises(errors.Interrupted):
        opsd_cli.train(small(), "run", listener=listener, stop=lambda: len(listener.seen) >= 2)
    result = opsd_cli.train(out="run", resume=True, listener=listener)
    assert listener.seen == [1, 2, 3, 4]
    assert opsd_cli.train(out="run", resume=True) == result
    assert result.accuracy == opsd_cli.train(small(), "whole").accuracy
    with pytest.raises(RunError, match="already holds a run"):
        opsd_cli.train(small(), "run")
    with pytest.raises(UsageError, match="its own config"):
        opsd_cli.train(small(), "run", resume=True)
    assert opsd_cli.train(out="run", resume_from=2).steps == 4


def test_train_uses_a_policy_that_is_loaded(folder: Path) -> None:
    policy = opsd_cli.load_policy(small())
    assert isinstance(policy, FakePolicy)
    before = policy.skill
    opsd_cli.train(small(), "run", policy=policy)
    assert policy.skill > before


def test_load_policy_ends_its_engine_with_the_stack(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    @contextlib.contextmanager
    def loaded(*_: object) -> Iterator[FakePolicy]:
        yield FakePolicy()
        ended.append("engine")

    monkeypatch.setattr("opsd_cli.api.loaded_policy", loaded)
    with contextlib.ExitStack() as stack:
        assert isinstance(opsd_cli.load_policy(small(), stack=stack), FakePolicy)
        assert not ended
    assert ended == ["engine"]


# -- evaluation --------------------------------------------------------------------------------


def test_evaluate_gives_the_command_s_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = opsd_cli.evaluate(None, "good.jsonl", "e", samples=2, limit=8)
    assert capsys.readouterr() == ("", "")
    assert (
        typed("eval --benchmark good.jsonl --out f --samples 2 --limit 8 --json", monkeypatch) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert found.summary["benchmarks"] == printed["benchmarks"]
    assert (folder / "e/samples.jsonl").read_text() == (folder / "f/samples.jsonl").read_text()
    assert found.report == Path("e/report.html") and found.directory == Path("e")
    grown = opsd_cli.evaluate(out="e", resume=True, samples=3, against="f")
    assert grown["good.jsonl"].samples_per_problem == 3 and len(grown.samples) == 24
    assert "against" in grown.summary["benchmarks"]["good.jsonl"]
    again = opsd_cli.evaluate(out="e", regrade=True)
    assert (again.summary["regraded"], again.summary["changed"]) == (24, 0)
    with pytest.raises(RunError, match="already holds an evaluation"):
        opsd_cli.evaluate(None, "good.jsonl", "e")


def test_evaluate_takes_problems_at_hand_and_writes_nothing(folder: Path) -> None:
    problems = [Problem(f"p{n}", f"{n} + 2", None, str(n + 2), "made") for n in range(6)]
    policy = FakePolicy(skill=1.0)
    found = opsd_cli.evaluate(None, problems, policy=policy, samples=2)
    assert found.accuracy.value == 1 and len(found.samples) == 12 and found.report is None
    both = opsd_cli.evaluate(None, {"a": problems[:2], "b": problems[2:]}, policy=policy, limit=1)
    assert [len(both[name].samples) for name in ("a", "b")] == [1, 1]
    with pytest.raises(UsageError, match="there are 2 benchmarks: a, b"):
        _ = both.accuracy
    assert [path.name for path in folder.iterdir()] == ["good.jsonl"]
    kept = opsd_cli.evaluate(None, {"a": problems}, "e")
    assert len(opsd_cli.evaluate(None, {"a": problems}, "e", resume=True, samples=2).samples) == 12
    assert kept.directory == Path("e")


@pytest.mark.parametrize(
    ("problems", "says"),
    [
        ([], "holds no problems"),
        ([Problem("p", "1 + 1", None, None, "made")], "has no answer"),
        ([Problem("p", "1 + 1", None, "2", "made")] * 2, "two problems 'p'"),
    ],
)
def test_evaluate_refuses_problems_that_cannot_be_graded(
    folder: Path, problems: list[Problem], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        opsd_cli.evaluate(None, problems)


def test_evaluate_refuses_what_excludes_each_other(folder: Path) -> None:
    with pytest.raises(UsageError, match="need an evaluation's directory"):
        opsd_cli.evaluate(resume=True)
    with pytest.raises(UsageError, match="describes a model by its files"):
        opsd_cli.evaluate(None, "good.jsonl", "e", policy=FakePolicy())
    with pytest.raises(UsageError, match="limit is 0"):
        opsd_cli.evaluate(None, "good.jsonl", limit=0)
    with pytest.raises(ConfigError, match=r"evaluation\.samples: .* got 0"):
        opsd_cli.evaluate(None, "good.jsonl", samples=0)
    mixed: list[object] = ["good.jsonl", Problem("p", "1 + 1", None, "2", "made")]
    with pytest.raises(UsageError, match="in one list"):
        opsd_cli.evaluate(None, mixed)  # type: ignore[arg-type]
    assert [path.name for path in folder.iterdir()] == ["good.jsonl"]


# -- comparison --------------------------------------------------------------------------------


def test_compare_gives_the_command_s_summary_of_finished_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("opsd_cli.reports.comparison_pages.page_samples", lambda *_: {})
    for method in ("opsd", "grpo"):
        opsd_cli.train(small(method=method, **{"train.curve": True}), method)
    found = opsd_cli.compare(["opsd", "grpo"], "c")
    assert capsys.readouterr() == ("", "")
    assert typed("compare opsd grpo --out d --json", monkeypatch) == 0
    printed = json.loads(capsys.readouterr().out)
    assert found.summary["methods"] == printed["methods"]
    assert found.summary["token_efficiency"] == printed["token_efficiency"]
    assert "opsd needs" in found.verdict and found.picture.is_file() and found.report.is_file()
    with pytest.raises(errors.GateNotMet, match="below the 1e\\+09× required"):
        found.require_ratio(1e9)


def test_compare_refuses_labels_and_numbers_of_configs(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be compared with itself"):
        opsd_cli.compare({"opsd": small()}, "c")
    with pytest.raises(UsageError, match="cannot name a directory"):
        opsd_cli.compare({"opsd": small(), "../sft": small()}, "c")
    with pytest.raises(UsageError, match="its own plan"):
        opsd_cli.compare({"opsd": small()}, "c", resume=True)
    with pytest.raises(UsageError, match="seeds is 0"):
        opsd_cli.compare(seeds=0)
    with pytest.raises(UsageError, match="target is 2"):
        opsd_cli.compare(target=2)
    with pytest.raises(RunError, match="not a comparison"):
        opsd_cli.compare(out="c", resume=True)
    assert [path.name for path in folder.iterdir()] == ["good.jsonl"]
