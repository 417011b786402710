"""The commands end to end, on a policy without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends.interface import Capability, Rollout
from opsd_cli.config.presets import preset_names
from opsd_cli.errors import ModelError
from opsd_cli.methods import METHODS
from opsd_cli.problems.catalog import describe
from opsd_cli.training.run_directory import read_rows
from tests.support.cli import NOT_AT_HAND, QUICK, Opsd
from tests.support.fakes import FakeBackend, FakePolicy


def test_train_writes_a_run_and_one_json_object(opsd: Opsd, tmp_path: Path) -> None:
    code, out, err = opsd(f"train --json --out run --set data.train=good.jsonl {QUICK}")
    assert code == 0, err
    result = json.loads(out)
    assert result["run_dir"] == "run" and result["steps"] == 4
    assert set(result["accuracy"]) == {"base", "best", "final"}
    assert set(result["accuracy"]["best"]) == {"value", "low", "high"}
    assert result["accuracy"]["best"]["value"] > result["accuracy"]["base"]["value"]
    assert {"generated", "teacher_scored", "prompt", "trained"} <= set(result["tokens"])
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "best", "report.html"):
        assert (tmp_path / "run" / name).exists(), name
    assert "preflight" in err and "held out of good.jsonl" in err


def test_eval_of_a_finished_run_and_its_resume(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd(f"train --out run --set data.train=good.jsonl {QUICK}")[0] == 0
    code, out, _ = opsd("eval --adapter run --benchmark good.jsonl --out e --json --samples 2")
    assert code == 0
    summary = json.loads(out)
    assert "checkpoints" in summary["adapter"]
    assert summary["benchmarks"]["good.jsonl"]["problems"] == 40
    assert len(list(read_rows(tmp_path / "e" / "samples.jsonl"))) == 80
    code, out, _ = opsd("eval --adapter run --benchmark good.jsonl --out e --resume --samples 3")
    assert code == 0 and "avg@3" in out
    assert len(list(read_rows(tmp_path / "e" / "samples.jsonl"))) == 120
    code, out, _ = opsd("eval --benchmark good.jsonl --out e --regrade")
    assert code == 0 and "0 changed" in out
    assert opsd("train --resume --out run --json")[0] == 0


def test_preflight_failure_leaves_no_run(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FakeBackend, "load", lambda *_: FakePolicy(
            skill=0.9, taught=0.1
        )
    )  # fmt: skip
    code, out, err = opsd(f"train --out run {QUICK} --set data.train=good.jsonl")
    assert code == 1 and "nothing to distil" in err and out == ""
    assert not (tmp_path / "run").exists()


def test_compare_of_finished_runs(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsd_cli.reports.comparison_pages.page_samples", lambda *_: {})
    quick = f"--set data.train=good.jsonl --set train.curve=true {QUICK}"
    for method in ("opsd", "grpo"):
        assert opsd(f"train --out {method} --method {method} {quick}")[0] == 0
    assert opsd(f"train --out odd {quick} --set grading.deadline_seconds=3")[0] == 0
    code, out, err = opsd("compare opsd grpo odd --out c --json")
    assert code == 0, err
    assert "odd is left out: another grader" in err
    summary = json.loads(out)
    assert set(summary["methods"]) == {"opsd", "grpo"}
    assert summary["token_efficiency"]["counted"] == "generated"
    assert summary["token_efficiency"]["ratio"] > 1
    for name in ("comparison.json", "comparison.png", "report.html"):
        assert (tmp_path / "c" / name).stat().st_size > 0, name
    page = (tmp_path / "c" / "report.html").read_text()
    assert "opsd needs" in page and "Signs of collapse" in page
    code, out, err = opsd("compare opsd grpo --out gated --require-ratio 1e9")
    assert code == 4 and "below the 1e+09× required" in err and "opsd needs" in out
    assert opsd("compare opsd grpo --out c")[0] == 2


@pytest.mark.parametrize("command", ["train", "eval", "sample", "compare"])
def test_dry_run_writes_nothing(opsd: Opsd, tmp_path: Path, command: str) -> None:
    code, out, err = opsd(f"{command} --dry-run --json")
    assert code == 0, err
    json.loads(out)
    assert [path.name for path in tmp_path.iterdir()] == ["good.jsonl"]


def test_sample_shows_prompts_exactly(opsd: Opsd) -> None:
    code, out, _ = opsd("sample '1 + [2]' --solution '[bold]3' --show-prompts --quiet")
    assert code == 0
    assert "<|im_start|>user\n1 + [2]\n\nReason step by step" in out
    assert "[solution begins]\n[bold]3\n[solution ends]" in out
    assert "tokens" in out


def test_sample_divergence_as_json(opsd: Opsd) -> None:
    code, out, _ = opsd("sample '1 + 2' --solution '3' --divergence --n 2 --json")
    assert code == 0
    completions = json.loads(out)["completions"]
    assert len(completions) == 2
    for completion in completions:
        tokens = completion["divergence"]["tokens"]
        text = "".join(token["text"] for token in tokens)
        assert text == completion["completion"] + "<|im_end|>"  # a token, but no text
        assert completion["divergence"]["mean"] == pytest.approx(
            sum(token["value"] for token in tokens) / len(tokens)
        )


def test_sample_marks_divergent_tokens_without_colour(opsd: Opsd) -> None:
    _, out, _ = opsd("sample '1 + 2' --solution '3' --divergence")
    assert "⟦" in out and "mean" in out


def test_sample_privileged_uses_the_reference(opsd: Opsd) -> None:
    code, out, _ = opsd("sample --file good.jsonl --privileged --json --n 3")
    assert code == 0
    assert {c["status"] for c in json.loads(out)["completions"]} == {"correct"}


def test_quiet_prints_results_alone(opsd: Opsd) -> None:
    code, out, err = opsd("eval --benchmark good.jsonl --quiet --limit 3")
    assert code == 0 and err == "" and "avg@1" in out


def test_presets_are_listed_shown_copied(opsd: Opsd, tmp_path: Path) -> None:
    assert "embedded" in opsd("presets")[1]
    assert opsd("presets copy embedded mine.yaml")[0] == 0
    assert (tmp_path / "mine.yaml").read_text() == opsd("presets show embedded")[1]
    assert "optimizer.learning_rate = 5e-06" in opsd("presets keys")[1]


def test_doctor_reports_every_backend(opsd: Opsd) -> None:
    code, out, _ = opsd("doctor --json")
    report: dict[str, Any] = json.loads(out)
    assert code == 0 and set(report["backends"]) == {"mlx", "cuda", "cpu"}
    assert report["backends"]["cpu"]["detail"] == "a fake processor"


def test_version_and_help(opsd: Opsd) -> None:
    assert opsd("--version")[1].startswith("opsd ")
    assert "Teach a model" in opsd("--help")[1]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nsys.argv = ['opsd', *sys.argv[1:]]\nfrom opsd_cli.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.rpartition("LOADED")[2].split()
    heavy = {"numpy", "ruamel.yaml", "torch", "mlx", "datasets", "matplotlib"}
    if "train" not in arguments:  # Typer itself needs pydantic for a command's parameters
        heavy.add("pydantic")
    assert "typer" in loaded and not heavy & set(loaded)


def test_python_m_opsd_cli() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "opsd_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("opsd ")


def test_dry_run_plans_the_memory(opsd: Opsd, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = "train --dry-run --set data.train=good.jsonl"
    code, out, _ = opsd(f"{plan} --json")
    memory = json.loads(out)["memory"]
    assert code == 0 and memory["limit"] is None
    assert memory["peak"] >= sum(memory["parts"][part] for part in ("weights", "activations"))

    def small(_: FakeBackend) -> Capability:
        return Capability(True, "a small processor", memory=memory["peak"] // 2)

    monkeypatch.setattr(FakeBackend, "capability", small)
    code, out, _ = opsd(plan)
    assert code == 0 and "does not fit in" in out
    proposed = out.partition("nearest that fits: ")[2].splitlines()[0]
    assert proposed.startswith("--set ")
    assert "  fits in " in opsd(f"{plan} {proposed}")[1]


def test_resume_on_another_backend(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opsd(f"train --out run --set data.train=good.jsonl {QUICK}")[0] == 0
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    monkeypatch.setitem(backends.BACKENDS, "mlx", "tests.support.fakes:FakeBackend")
    code, out, err = opsd("train --resume-from 2 --out run --backend mlx --json")
    assert code == 0, err
    assert json.loads(out)["backend"] == "mlx" and "the run began on cpu" in err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    later = json.loads((tmp_path / "run" / "environment.json").read_text())["later"]
    assert [(entry["from_step"], entry["backend"]) for entry in later] == [(2, "mlx")]


@pytest.mark.parametrize(
    "preset",
    [
        name
        for name in preset_names()
        if not name.startswith(("domain", "embedded", "eval", "small"))
    ],
)
def test_dry_run_of_every_recipe_without_its_model_or_data(opsd: Opsd, preset: str) -> None:
    code, out, err = opsd(f"train --config {preset} --dry-run --json")
    assert code == 2 and NOT_AT_HAND in err  # as the run would end
    found = json.loads(out)
    assert found["memory"]["peak"] > 2**30 and found["memory"]["parts"]["weights"] > 2**29
    steps, train = found["plan"], found["config"]["train"]
    per_question = {"opsd": 1, "grpo": 8, "sft": 0}[found["config"]["method"]]
    assert steps["rollouts"] == train["steps"] * train["questions_per_step"] * per_question


def test_dry_run_of_compare_has_every_method(opsd: Opsd) -> None:
    """Neither the model nor the data is available."""
    code, out, err = opsd("compare --config opsd-qwen3-1.7b --dry-run")
    assert code == 2 and NOT_AT_HAND in err
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["opsd"][:4] == ["100", "3,200", "3,276,800", "31,850,496"]
    assert rows["grpo"][:4] == ["500", "8,000", "128,000,000", "0"]
    assert rows["sft"][:3] == ["1,824", "0", "0"]
    assert rows["hybrid"][:3] == ["500", "8,000", "8,192,000"]
    code, out, err = opsd("compare --config opsd-qwen3-1.7b --dry-run --json --tune --seeds 2")
    found = json.loads(out)
    assert code == 2 and set(found["plan"]) == set(METHODS)
    assert (found["methods"], found["seeds"]) == (["opsd", "grpo"], 2)
    assert found["plan"]["grpo"]["generated_tokens_at_most"] == 128_000_000
    assert found["tuning"]["generated_tokens_at_most"] == 3 * (128_000_000 + 3_276_800)
    # All are measured the same way: on the test split at every validation, thinking, 16,000 tokens.
    measured = {name: plan["evaluation_tokens_at_most"] for name, plan in found["plan"].items()}
    preflight = 2 * 32 * 16000 + 32 * 8 * 1024  # answers, and attempts as long as rollouts
    assert measured["opsd"] == (5 * 200 + 5 * 400) * 16000 + preflight
    assert measured["grpo"] == (11 * 200 + 11 * 400) * 16000


def test_eval_resume_grows_against_pairs_and_pages_are_written(opsd: Opsd, tmp_path: Path) -> None:
    first = opsd("eval --benchmark good.jsonl --limit 5 --samples 2 --out e --json")
    assert first[0] == 0, first[2]
    # Only the directory is needed to resume; what is requested is added to what exists.
    code, out, _ = opsd("eval --resume --out e --samples 3 --limit 8 --json")
    grown = json.loads(out)["benchmarks"]["good.jsonl"]
    assert code == 0 and (grown["problems"], grown["samples"]) == (8, 3)
    whole = json.loads(opsd("eval --benchmark good.jsonl --limit 8 --samples 3 --out f --json")[1])[
        "benchmarks"
    ]["good.jsonl"]
    assert grown == whole
    assert json.loads(opsd("eval --resume --out e --json")[1])["benchmarks"]["good.jsonl"] == whole
    code, _, err = opsd("eval --resume --out e --samples 2")
    assert code == 2 and "--samples 2 is fewer" in err
    code, _, err = opsd("eval --resume --out e --set evaluation.temperature=0.5")
    assert code == 2 and "other settings: sampling" in err
    code, out, _ = opsd("eval --benchmark good.jsonl --seed 1 --limit 8 --out g --against e --json")
    paired = json.loads(out)["benchmarks"]["good.jsonl"]["against"]
    assert code == 0 and paired["samples"] == 3 and "seed" in paired["settings_that_differ"]
    value = json.loads(out)["benchmarks"]["good.jsonl"]["accuracy"]["value"]
    assert paired["difference"]["value"] == pytest.approx(value - whole["accuracy"]["value"])
    code, _, err = opsd("eval --limit 2 --out h --against e")
    assert code == 2 and "does not hold embedded" in err
    assert len(list((tmp_path / "g/pages/0").glob("*.html"))) == 8
    assert "pages/0/8.html" in (tmp_path / "g/report.html").read_text()
    assert "Against e" in (tmp_path / "g/report.html").read_text()


def test_regrade_uses_a_corrected_answer(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd("eval --benchmark good.jsonl --samples 2 --out e")[0] == 0
    path = tmp_path / "good.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["answer"] = str(int(row["answer"]) + 1)  # what the fake answers when it is wrong
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = json.loads((tmp_path / "e/results.json").read_text())["benchmarks"]["good.jsonl"]
    code, _, err = opsd("eval --resume --out e")
    assert code == 2 and "--regrade" in err
    code, out, _ = opsd("eval --regrade --out e --json")
    after = json.loads(out)
    assert code == 0 and after["regraded"] == after["changed"] == 80
    assert after["benchmarks"]["good.jsonl"]["accuracy"]["value"] == pytest.approx(
        1 - before["accuracy"]["value"]
    )
    assert opsd("eval --resume --out e")[0] == 0


def test_data_show_prints_a_description_that_can_be_loaded(opsd: Opsd, tmp_path: Path) -> None:
    listed = json.loads(opsd("data --json")[1])
    for use, flag in (("benchmarks", ""), ("training", " --train")):
        for name, entry in listed[use].items():
            code, out, _ = opsd(f"data show {name}{flag}")
            assert code == 0 and entry["data"] in out
            (tmp_path / "mine.yaml").write_text(out)
            again = describe("mine.yaml", "test")
            assert again is not None and again.model_dump(mode="json") == entry
    assert "data show gsm8k --train" in opsd("data show gsm8k")[1]
    assert "openthoughts-30k" in opsd("data")[1]
    assert opsd("data show aime24 --train")[0] == 2


def test_adapter_of_another_base_model_is_named_as_the_cause(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "another-model"}')

    def unfit(self: object, config: object, trainable: bool) -> None:
        raise ModelError("the adapter does not fit the model: it lacks weights", "copy it again")

    monkeypatch.setattr("tests.support.fakes.FakeBackend.load", unfit)
    code, _, err = opsd("sample '1 + 2' --adapter adapter --model embedded")
    assert code == 2 and "made for the model another-model, and this is embedded" in err


def test_sample_divergence_of_an_empty_completion(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: object, requests: Any, *_: Any, **__: Any) -> Iterator[Rollout]:
        for request in requests:
            yield Rollout(request, (), np.zeros(0, np.float32), "length")

    monkeypatch.setattr("tests.support.fakes.FakePolicy.generate", nothing)
    code, out, err = opsd("sample '1 + 2' --solution '3' --divergence --json")
    assert code == 0, err
    (completion,) = json.loads(out)["completions"]
    assert completion["completion"] == "" and completion["divergence"]["tokens"] == []
    assert completion["divergence"]["mean"] == 0
