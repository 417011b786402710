"""`opsd eval` on a run's own splits, and the sampling of `opsd sample`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.files.jsonl_log import read_rows
from tests.support.cli import QUICK, Opsd
from tests.support.fakes import FakePolicy

TRAIN = f"train --out run --set data.train=good.jsonl {QUICK}"


def test_eval_of_a_run_measures_its_own_test_split(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd(TRAIN)[0] == 0
    code, out, err = opsd("eval --adapter run --out e --json")
    assert code == 0, err
    assert "the run's own test split of good.jsonl" in " ".join(err.split())
    found = json.loads(out)["benchmarks"]
    assert list(found) == ["test"] and found["test"]["problems"] == 4
    # The same problems with the same seeds as the run's own measurement.
    measured = json.loads((tmp_path / "run/environment.json").read_text())["data"]["test"]
    assert measured["problems"] == 4
    code, out, _ = opsd("eval --out e --resume --samples 2 --json")
    assert code == 0 and json.loads(out)["benchmarks"]["test"]["samples"] == 2
    assert opsd("eval --out e --regrade")[0] == 0


def test_eval_names_a_split_as_a_benchmark(opsd: Opsd, tmp_path: Path) -> None:
    data = "--set data.train=good.jsonl"
    ids = {}
    for name in ("test", "validation"):
        code, _, err = opsd(f"eval --benchmark {name} --out {name} {data}")
        assert code == 0, err
        ids[name] = {row["problem_id"] for row in read_rows(tmp_path / name / "samples.jsonl")}
        assert len(ids[name]) == 4
    assert not ids["test"] & ids["validation"]
    code, out, _ = opsd(f"eval --benchmark test --limit 2 --json {data}")
    assert code == 0 and json.loads(out)["benchmarks"]["test"]["problems"] == 2


def test_eval_of_a_split_needs_training_data(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: {train: null}\n")
    code, _, err = opsd("eval --benchmark test --config c.yaml --set data.train=null")
    assert code == 2 and "test is the test split of a run" in err and "--adapter RUN" in err


@pytest.mark.parametrize(
    ("flag", "temperature", "top_k", "limit"),
    [("", 0.3, 0, 7), ("--sampling evaluation", 0.3, 0, 7), ("--sampling training", 0.9, 20, 80)],
)
def test_sample_draws_as_evaluations_do_by_default(
    opsd: Opsd,
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    temperature: float,
    top_k: int,
    limit: int,
) -> None:
    drawn = []
    generate = FakePolicy.generate

    def recorded(self: FakePolicy, requests, sampling, *more, **others):  # type: ignore[no-untyped-def]
        drawn.append(sampling)
        return generate(self, requests, sampling, *more, **others)

    monkeypatch.setattr(FakePolicy, "generate", recorded)
    numbers = "--set evaluation.temperature=0.3 --set evaluation.max_new_tokens=7"
    rollouts = "--set sampling.temperature=0.9 --set sampling.top_k=20"
    code, out, err = opsd(f"sample 1+1 --json {flag} {numbers} {rollouts}")
    assert code == 0, err
    found = json.loads(out)["sampling"]
    (sampling,) = drawn
    for key, value in (("temperature", temperature), ("top_k", top_k), ("max_new_tokens", limit)):
        assert getattr(sampling, key) == found[key] == value
    assert f"temperature {temperature:g}" in err


def test_sample_refuses_another_sampling(opsd: Opsd) -> None:
    code, _, err = opsd("sample 1+1 --sampling greedy")
    assert code == 2 and "there is no sampling 'greedy'" in err and "evaluation, training" in err
