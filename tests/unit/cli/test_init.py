"""`opsd init`: a config for one's own model and data, and the training run that it describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Capability
from opsd_cli.config.json_schema import SCHEMA_FILE, modeline
from opsd_cli.config.presets import preset_trees
from opsd_cli.config.resolve import resolve
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.embedded import MODEL_DIR
from opsd_cli.planning.first_config import RANKS
from tests.support import chat_models
from tests.support.cli import Opsd, help_with
from tests.support.fakes import FakeBackend

Model = Callable[[str], Path]
INIT = "init --model model --data good.jsonl"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Writes the folder `model`: the embedded model with a family's tokenizer and chat template."""

    def write(family: str) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(MODEL_DIR, folder)
        (folder / "chat_template.jinja").unlink()
        chat_models.tokenizer(family).save_pretrained(folder)
        return folder

    return write


def limited_to(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the fake backend so many bytes of memory."""
    found = Capability(True, "a small processor", memory=size)
    monkeypatch.setattr(FakeBackend, "capability", lambda _: found)


def first(opsd: Opsd, words: str = INIT) -> dict[str, Any]:
    """The JSON object of `opsd init`."""
    code, out, err = opsd(f"{words} --json")
    assert code == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_init_then_train(opsd: Opsd, model: Model, tmp_path: Path) -> None:
    model("qwen2.5")
    code, out, err = opsd(INIT)
    assert code == 0, err
    assert "opsd train --config opsd.yaml" in out
    assert "columns: question from 'question'" in err and "rollouts precede step 1" in err
    code, out, err = opsd("train --config opsd.yaml --steps 2 --out run --json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 2
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.slow
def test_init_then_train_on_the_embedded_model(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import backends
    from opsd_cli.problems.sources import embedded

    monkeypatch.setitem(backends.BACKENDS, "cpu", "backends.pytorch.backend:CpuBackend")
    rows = [
        json.dumps({"question": p.question, "solution": p.solution, "answer": p.answer})
        for p in embedded("train", 200).problems
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(rows))
    first(opsd, "init --model embedded --data own.jsonl")
    small = "--backend cpu --steps 4 --set data.test_problems=40 --set evaluation.samples=1"
    code, out, err = opsd(f"train --config opsd.yaml --json {small}")
    assert code == 0, err
    accuracy = json.loads(out)["accuracy"]
    assert accuracy["best"]["value"] > accuracy["base"]["value"]


def test_init_comments_every_key(opsd: Opsd, model: Model, tmp_path: Path) -> None:
    model("qwen3")
    first(opsd, f"{INIT} mine.yaml --set grading.deadline_seconds=5")
    lines = (tmp_path / "mine.yaml").read_text().splitlines()
    keys = [n for n, line in enumerate(lines) if ": " in line and not line.strip().startswith("#")]
    assert len(keys) > 20
    for number in keys:
        assert lines[number - 1].strip().startswith("# "), lines[number]
    assert "5" in next(line for line in lines if "deadline_seconds:" in line)


def test_init_writes_the_config_that_it_shows(opsd: Opsd, model: Model, tmp_path: Path) -> None:
    model("qwen3")
    shown = first(opsd)
    config = resolve(str(tmp_path / "opsd.yaml"))
    assert json.loads(config.model_dump_json()) == shown["config"]


@pytest.mark.parametrize(
    ("family", "student", "teacher", "boundary"),
    [
        ("qwen3", {"enable_thinking": False}, {"enable_thinking": True}, "match"),
        ("qwen2.5", {}, {}, "keep"),
    ],
)
def test_init_checks_thinking_and_boundary(
    opsd: Opsd, model: Model, family: str, student: Any, teacher: Any, boundary: str
) -> None:
    model(family)
    prompts = first(opsd)["config"]["prompts"]
    assert prompts["student"]["chat_arguments"] == student
    assert prompts["teacher"]["chat_arguments"] == teacher
    assert prompts["boundary"] == boundary


def test_init_for_a_model_without_a_chat_template_writes_stop_strings(
    opsd: Opsd, model: Model, tmp_path: Path
) -> None:
    model("base")
    found = first(opsd)
    assert any("no chat template" in note for note in found["notes"])
    assert resolve(str(tmp_path / "opsd.yaml")).sampling.stop == ("\n\nProblem:",)


def test_init_fits_the_data(opsd: Opsd, model: Model) -> None:
    model("qwen2.5")
    found = first(opsd)
    data, lengths = found["config"]["data"], found["lengths"]
    assert (data["validation_problems"], data["test_problems"]) == (4, 4)
    assert found["problems"] == {"train": 32, "validation": 4, "test": 4}
    assert found["rollouts_before_step_1"] == 2 * 16 + 4 + 4
    assert found["rollouts_before_step_1_at_most"] == 10 * 16 + 4 + 4
    assert lengths["tokenised"] and lengths["solutions_95_percent"] == len("39 + 1 = 40")
    assert found["config"]["prompts"]["teacher"]["max_tokens"] >= lengths["teacher_prompt"]
    assert found["config"]["lora"]["rank"] == 16


@pytest.mark.parametrize(
    ("solution", "length"),
    [(20, 384), (150, 384), (300, 608), (2000, 1024)],
)
def test_init_leaves_room_for_completions_in_the_words_of_the_model(
    opsd: Opsd, model: Model, tmp_path: Path, solution: int, length: int
) -> None:
    model("qwen2.5")  # a token a character
    folder = tmp_path / "model"
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 8192}))
    rows = (
        json.dumps({"question": f"{n} + 1", "solution": "s" * solution, "answer": str(n + 1)})
        for n in range(40)
    )
    (tmp_path / "own.jsonl").write_text("\n".join(rows))
    found = first(opsd, "init --model model --data own.jsonl")
    assert found["lengths"]["solutions_95_percent"] == solution
    assert found["config"]["sampling"]["max_new_tokens"] == length
    assert "at least 384 for answers in the model's own words" in (
        " ".join((tmp_path / "opsd.yaml").read_text().replace("# ", "").split())
    )


def test_init_leaves_in_training_what_it_does_not_measure(opsd: Opsd, tmp_path: Path) -> None:
    rows = (f'{{"question": "{n} + 1", "solution": "s", "answer": "{n}"}}\n' for n in range(1000))
    (tmp_path / "many.jsonl").write_text("".join(rows))
    found = first(opsd, "init --model embedded --data many.jsonl")
    assert found["problems"] == {"train": 904, "validation": 32, "test": 64}
    _, out, _ = opsd("train --config opsd.yaml --dry-run --json")
    assert json.loads(out)["plan"]["problems"] == found["problems"]


@pytest.mark.parametrize("limit", [2**33, 2**21])
def test_init_and_dry_run_plan_the_same_memory_and_prompts(
    opsd: Opsd, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int
) -> None:
    model("qwen2.5")
    # The longest question is among those that are held out as long as their number is the default.
    rows = (
        f'{{"question": "{n} + {"1" * n}", "solution": "it is {n}", "answer": "{n}"}}\n'
        for n in range(1, 700)
    )
    (tmp_path / "good.jsonl").write_text("".join(rows))
    limited_to(limit, monkeypatch)
    found = first(opsd)
    planned = json.loads(opsd("train --config opsd.yaml --dry-run --json")[1])
    assert planned["memory"]["peak"] == found["memory"]["peak"]
    assert planned["memory"]["limit"] == found["memory"]["limit"]
    prompts = {role: planned["plan"]["for_prompts_of"][role] for role in ("student", "teacher")}
    lengths = found["lengths"]
    assert prompts == {role: lengths[f"{role}_prompt"] for role in prompts}


def test_init_maps_columns_and_keeps_what_is_given(
    opsd: Opsd, model: Model, tmp_path: Path
) -> None:
    model("qwen2.5")
    text = (tmp_path / "good.jsonl").read_text().replace('"question"', '"ask"')
    (tmp_path / "good.jsonl").write_text(text)
    given = "--set data.columns.question=ask --set lora.rank=3 --set train.patience=null"
    config = first(opsd, f"{INIT} {given}")["config"]
    assert config["data"]["columns"]["question"] == "ask"
    assert config["lora"]["rank"] == 3 and config["lora"]["alpha"] == 6
    assert config["train"]["patience"] is None


def test_init_takes_batches_from_the_memory_plan(
    opsd: Opsd, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model("qwen2.5")
    limited_to(2**33, monkeypatch)
    roomy = first(opsd, f"{INIT} roomy.yaml")
    limited_to(roomy["memory"]["peak"], monkeypatch)
    tight = first(opsd, f"{INIT} tight.yaml")
    assert tight["memory"]["peak"] <= 0.8 * tight["memory"]["limit"]
    assert tight["config"]["train"] != roomy["config"]["train"]
    _, out, _ = opsd("train --config tight.yaml --dry-run --json")
    assert json.loads(out)["memory"]["peak"] <= tight["memory"]["limit"]


def test_init_repeats_what_loading_says_of_the_data(opsd: Opsd, tmp_path: Path) -> None:
    rows = [
        {"question": f"{n} + 1", "solution": f"\\boxed{{{n + 1}}}", "answer": str(n + 1)}
        for n in range(40)
    ]
    rows[3]["answer"] = "7"  # its solution's box has another
    rows[5]["answer"] = "\\boxed{"  # no completion can match it
    rows[7]["question"] = ""
    (tmp_path / "faulty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = opsd("init --model embedded --data faulty.jsonl --json")
    assert code == 0, err
    found = json.loads(out)
    (warning,) = found["warnings"]
    assert "answer of another value than the solution states (first: row 4" in warning
    assert f"warning: {warning}" in err
    (note,) = (note for note in found["notes"] if "faulty.jsonl: used 39 of 40 rows" in note)
    assert "1 without a question" in note and "cannot be matched" in note and note in err
    assert not any("held out" in note for note in found["notes"])


def test_init_without_the_tokenizer_estimates(opsd: Opsd) -> None:
    found = first(opsd, "init --model Qwen/Qwen3-1.7B --data good.jsonl")
    assert not found["lengths"]["tokenised"]
    assert found["config"]["prompts"]["boundary"] == "match"
    assert any("lengths are estimated" in note for note in found["notes"])


#: What `opsd init` takes from the data, the memory plan and the model's size instead.
FITTED = {
    "sampling.max_new_tokens", "prompts.teacher.max_tokens", "prompts.boundary",
    "rollouts.batch_size", "train.micro_batch_tokens", "lora.rank", "lora.alpha",
}  # fmt: skip


@pytest.mark.parametrize(("preset", "on_cpu"), [("small-cpu", True), ("small-gpu", False)])
def test_init_writes_the_values_of_the_preset_for_small_models(
    opsd: Opsd,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    on_cpu: bool,
) -> None:
    found = Capability(True, "a device", memory=2**36, on_cpu=on_cpu)
    monkeypatch.setattr(FakeBackend, "capability", lambda _: found)
    model("qwen2.5")
    rows = (f'{{"question": "{n} + 1", "solution": "s", "answer": "{n}"}}\n' for n in range(3000))
    (tmp_path / "many.jsonl").write_text("".join(rows))
    shown = first(opsd, "init --model model --data many.jsonl")["config"]
    wanted = resolve(preset).model_dump(mode="json")
    keys = set.union(*(leaves(tree) for tree in preset_trees(preset)))
    assert len(keys - FITTED) >= 9
    for key in keys - FITTED:
        assert at(shown, key) == at(wanted, key), key
    assert wanted["lora"]["rank"] in [rank for _, rank in RANKS]


def leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_init_dry_run_writes_nothing(opsd: Opsd, tmp_path: Path) -> None:
    code, out, _ = opsd("init --dry-run")
    assert code == 0 and "model: embedded" in out and "nothing was written" in out
    assert not (tmp_path / "opsd.yaml").exists()


def test_init_with_no_other_word_is_for_the_embedded_model(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd("init")[0] == 0
    tree = read_tree(tmp_path / "opsd.yaml")
    assert tree["model"] == "embedded" and tree["data"]["train"] == "embedded"


FLAGS = [
    ("--steps 7", "train.steps", 7),
    ("--lr 3e-4", "optimizer.learning_rate", 3e-4),
    ("--max-tokens 33", "sampling.max_new_tokens", 33),
    ("--temperature 0.3", "sampling.temperature", 0.3),
    ("--batch 5", "train.questions_per_step", 5),
]


@pytest.mark.parametrize(("flag", "key", "value"), FLAGS)
def test_train_flag_sets_its_key(opsd: Opsd, flag: str, key: str, value: Any) -> None:
    section, name = key.split(".")
    code, out, err = opsd(f"train --dry-run --json --set {key}=9 {flag}")
    assert code == 0, err
    assert json.loads(out)["config"][section][name] == value


def test_train_help_says_which_key_a_flag_sets() -> None:
    said = help_with("", "train")
    for flag, key, _ in FLAGS:
        assert flag.split()[0] in said and f"sets {key}" in said
    assert "Every other setting is a config key: --set KEY=VALUE" in said


def test_init_names_the_json_schema_beside_the_config(opsd: Opsd, tmp_path: Path) -> None:
    assert "yaml-language-server" not in opsd("init --dry-run")[1]
    (tmp_path / SCHEMA_FILE).write_text("{}")
    assert opsd("init --dry-run")[1].startswith(f"# {modeline()}\n")


def test_init_on_problems_without_solutions_states_no_length_of_solutions(
    opsd: Opsd, model: Model, tmp_path: Path
) -> None:
    model("qwen2.5")
    rows = map(json.loads, (tmp_path / "good.jsonl").read_text().splitlines())
    kept = ({"question": row["question"], "answer": row["answer"]} for row in rows)
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    code, _, err = opsd("init --model model --data bare.jsonl --set teacher.reference=answer")
    assert code == 0, err
    assert "lengths, tokenised: prompts of" in err
    assert "at most 0 tokens" not in err + (tmp_path / "opsd.yaml").read_text()
    assert "solutions of at most" in opsd("init with.yaml --model model --data good.jsonl")[2]
