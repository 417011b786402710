"""Base models: what the commands say of a missing chat template, worked examples, stop strings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Opsd
from tests.support.fakes import FakePolicy
from tests.support.small_tokenizers import CharacterTokenizer

FEW = "--set prompts.few_shot.examples=2 --set prompts.few_shot.source=shots.jsonl"


class WithoutTemplate(CharacterTokenizer):
    has_chat_template = False


def write_shots(folder: Path, first: int = 100) -> None:
    (folder / "shots.jsonl").write_text(
        "".join(
            json.dumps({"question": f"{n} - 1", "solution": f"It is \\boxed{{{n - 1}}}."}) + "\n"
            for n in range(first, first + 3)
        )
    )


@pytest.mark.parametrize(
    "command",
    [
        "sample 1+1",
        "eval --benchmark good.jsonl --limit 1 --out {out}",
        "train --steps 1 --batch 2 --set data.train=good.jsonl --out {out}",
    ],
)
def test_a_missing_chat_template_is_said_once(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    _, _, err = opsd(command.format(out="with"))
    assert "no chat template" not in err
    monkeypatch.setattr(FakePolicy, "tokenizer", WithoutTemplate())
    code, _, err = opsd(command.format(out="without"))
    said = " ".join(err.split())
    assert code == 0 and said.count("no chat template") == 1
    assert "sampling.stop" in said and "prompts.few_shot.examples" in said


def test_evaluation_records_its_few_shot_examples(opsd: Opsd, tmp_path: Path) -> None:
    write_shots(tmp_path)
    code, _, err = opsd(f"eval --benchmark good.jsonl --limit 8 --out e {FEW}")
    assert code == 0, err
    described = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert described["few_shot"]["examples"] == 2
    assert opsd("eval --out e --resume --samples 2")[0] == 0
    code, out, _ = opsd("eval --benchmark good.jsonl --limit 8 --out plain --against e --json")
    assert code == 0
    paired = json.loads(out)["benchmarks"]["good.jsonl"]["against"]
    assert "few_shot" in paired["settings_that_differ"]
    assert "few_shot" not in json.loads((tmp_path / "plain/evaluation.json").read_text())
    write_shots(tmp_path, 200)
    code, _, err = opsd("eval --out e --resume --samples 3")
    assert code == 2 and "other settings: the few-shot examples" in err
    (tmp_path / "shots.jsonl").unlink()
    assert opsd("eval --out e --regrade")[0] == 0


def test_few_shot_prompts_are_shown(opsd: Opsd, tmp_path: Path) -> None:
    write_shots(tmp_path)
    code, out, _ = opsd(f"sample 5+5 --solution x --show-prompts --dry-run --json {FEW}")
    (shown,) = json.loads(out)["prompts"]
    assert code == 0
    for role in ("student", "teacher"):
        assert shown[role]["text"].count("It is \\boxed{99}.<|im_end|>") == 1
        assert shown[role]["text"].count("<|im_start|>user") == 3


def test_few_shot_run_charges_its_examples_and_leaves_them_out(opsd: Opsd, tmp_path: Path) -> None:
    off = "--set preflight.enabled=false"
    train = f"train --steps 1 --batch 4 --set data.train=good.jsonl --json {off}"
    tokens = []
    for name, more in (("plain", ""), ("few", "--set prompts.few_shot.examples=2")):
        code, out, err = opsd(f"{train} --out {name} {more}")
        assert code == 0, err
        tokens.append(json.loads(out)["tokens"]["prompt"])
    assert tokens[1] > 1.5 * tokens[0]
    environment = json.loads((tmp_path / "few/environment.json").read_text())
    assert environment["data"]["few_shot"]["problems"] == 2
    code, _, err = opsd("train --resume --out few --json")
    assert code == 0, err


def test_stop_strings_are_part_of_an_evaluation(opsd: Opsd, tmp_path: Path) -> None:
    """The fake policy knows none, so the text alone is cut: every answer ends before its digits."""
    stop = "--set \"sampling.stop=['{']\""
    code, out, _ = opsd(f"eval --benchmark good.jsonl --limit 8 --out e --json {stop}")
    assert code == 0 and json.loads(out)["benchmarks"]["good.jsonl"]["accuracy"]["value"] == 0
    described = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert described["sampling"]["stop"] == ["{"]
    code, _, err = opsd("eval --out e --resume --samples 2 --set evaluation.stop=[]")
    assert code == 2 and "other settings: sampling" in err


@pytest.mark.parametrize("source", ["", "--set prompts.few_shot.source=good.jsonl"])
def test_few_shot_examples_need_no_column_of_the_grader(
    opsd: Opsd, tmp_path: Path, source: str
) -> None:
    row = {"question": "Which is a fruit?", "options": ["a stone", "a plum"], "answer": "B"}
    quiz = "".join(json.dumps({**row, "id": str(number)}) + "\n" for number in range(4))
    (tmp_path / "quiz.jsonl").write_text(quiz)
    graded = "--set grading.grader=choice --set grading.choices=options --set data.fields=[options]"
    shots = f"--set data.train=good.jsonl --set prompts.few_shot.examples=2 {source}"
    code, _, err = opsd(f"eval --benchmark quiz.jsonl --out e {graded} {shots}")
    assert code == 0, err
    described = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert described["few_shot"]["examples"] == 2
