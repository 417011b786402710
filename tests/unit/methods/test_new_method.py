"""A method from outside the tree: one file and one line in the registry."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from opsd_cli import methods
from opsd_cli.cli.app import main
from opsd_cli.errors import ConfigError
from opsd_cli.files.jsonl_log import read_rows
from tests.support.cli import help_with
from tests.support.fakes import FakeBackend

SOURCE = '''
"""Rejection fine-tuning: cross-entropy on the student's own right completions."""

from backends.interface import PolicyGradientBatch, PolicyGradientItem
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.methods.base import LossPlan, Method, Needs
from opsd_cli.token_ledger import TokenLedger


class RejectionFineTuning(Method):
    name = "rft"
    needs = Needs(rewards=True)

    def rollouts_per_question(self):
        return self._config.rollouts.per_question or 2

    def build_loss(self, inputs, policy):
        right = [g.rollout for g in inputs.rollouts if g.correct]
        weights = completion_weights([len(r.completion_ids) for r in right], "tokens")
        items = tuple(
            PolicyGradientItem(
                r.request.prompt_ids, r.completion_ids, (1.0,) * len(r.completion_ids), weight
            )
            for r, weight in zip(right, weights)
        )
        batches = (PolicyGradientBatch(items),) if items else ()
        return LossPlan(batches, metrics={"kept": len(right) / len(inputs.rollouts)})

    def tokens_read(self, sizes):
        return TokenLedger(trained=sizes.rollouts * sizes.student_sequence)
'''


@pytest.fixture
def _rft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rejection.py").write_text(SOURCE)
    rows = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(60)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(methods.METHODS, "rft", "rejection:RejectionFineTuning")
    monkeypatch.setattr("backends.get", lambda name: FakeBackend())
    monkeypatch.setattr(sys, "argv", [])  # put back at the end
    monkeypatch.chdir(tmp_path)


def opsd(capsys: pytest.CaptureFixture[str], *words: str) -> dict:  # type: ignore[type-arg]
    sys.argv = ["opsd", *words]
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    found: dict = json.loads(said.out)  # type: ignore[type-arg]
    return found


QUESTIONS = 4
SHORT = (
    "--method", "rft", "--json", "--backend", "cpu", "--set", "data.train=sums.jsonl",
    "--set", "train.steps=2",
    "--set", f"train.questions_per_step={QUESTIONS}",
    "--set", "data.validation_problems=4", "--set", "data.test_problems=4",
)  # fmt: skip


@pytest.mark.usefixtures("_rft")
def test_a_new_method_is_one_file_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = opsd(capsys, "train", *SHORT, "--dry-run")["plan"]
    result = opsd(capsys, "train", *SHORT, "--out", "run")
    assert result["method"] == "rft"
    assert result["tokens"]["rollouts"] == plan["rollouts"] == 2 * 2 * QUESTIONS
    assert 0 < result["tokens"]["trained"] <= plan["trained_tokens_at_most"]
    metrics = list(read_rows(tmp_path / "run" / "metrics.jsonl"))
    assert len(metrics) == 2 and all(0 <= row["kept"] <= 1 for row in metrics)
    assert result["tokens"]["teacher_scored"] == 0  # no preflight and no teacher


def test_a_new_method_is_in_the_help() -> None:
    added = "from opsd_cli.methods import METHODS; METHODS['rft'] = 'rejection:Rft'"
    assert "opsd|grpo|sft|hybrid|rft" in help_with(added, "train")
    assert "Of opsd, grpo, sft, hybrid and rft;" in help_with(added, "compare")


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown method 'ppo'") as refused:
        methods.method_class("ppo")
    assert "opsd, grpo, sft, hybrid" in refused.value.hint


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_is_called_what_the_registry_calls_it(name: str) -> None:
    assert methods.method_class(name).name == name
