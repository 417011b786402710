"""The domains of `benchmarks/domains`: problems that their graders judge right, disjoint splits,
base models' documents, and what the runs show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.shared.weight_files import nearest_folder
from benchmarks.domains import __main__ as command
from benchmarks.domains import base, kit, results
from benchmarks.domains.example import Domain
from benchmarks.domains.registry import DOMAINS
from benchmarks.domains.rules import score
from opsd_cli.config.resolve import resolve
from opsd_cli.domain_files import DOMAINS as made_domains
from opsd_cli.domain_files import how_to_make
from opsd_cli.errors import DataError
from opsd_cli.grading import Item, open_grader
from opsd_cli.problems.arithmetic import SPLITS, Split
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import Reference
from opsd_cli.statistics import Estimate
from tests.support.small_tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer()
FEW: dict[Split, int] = {"train": 4, "validation": 2, "test": 3}
each_domain = pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)


@each_domain
def test_domain_preset_reads_its_problems_and_grades_them(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right completion of each problem is correct, and an attempt with a fault is wrong."""
    kit.write_problems(domain, tmp_path, FEW)
    config = kit.config_of(domain, tmp_path)
    assert resolve(domain.preset).grading == config.grading
    splits = load_splits(config)
    assert {name: len(each.problems) for name, each in splits.named().items()} == FEW
    examples = list(islice(domain.examples("train"), FEW["train"]))
    asked = [base.problem_of(example, config).question for example in examples]
    assert [problem.question for problem in splits.train.problems] == asked
    if domain.measured_by:
        config = kit.config_of(domain, tmp_path, **{"grading.grader": domain.measured_by})
    monkeypatch.chdir(Path(__file__).parents[2])  # where the path of the grader's file begins
    items = [
        Item(problem, example.right)
        for problem, example in zip(splits.train.problems, examples, strict=True)
    ]
    faulty = (e for e in domain.examples("train") if not domain.accepts(e, e.attempt))
    items += [Item(base.problem_of(e, config), e.attempt) for e in islice(faulty, 4)]
    with open_grader(config.grading) as grader:
        grades = grader.grade(items)
    assert [grade.correct for grade in grades] == [True] * 4 + [False] * 4


@each_domain
def test_domain_splits_share_no_key(domain: Domain) -> None:
    keys = {split: {e.key for e in islice(domain.examples(split), 60)} for split in SPLITS}
    assert all(len(keys[split]) == 60 for split in kit.SIZES)
    assert len(set.union(*keys.values())) == sum(map(len, keys.values()))


@each_domain
def test_domain_attempts_are_right_at_a_rate_that_leaves_a_gap(domain: Domain) -> None:
    examples = list(islice(domain.examples("pretrain"), 300))
    assert all(domain.accepts(example, example.right) for example in examples)
    assert 0.3 < sum(domain.accepts(e, e.attempt) for e in examples) / 300 < 0.6


@each_domain
def test_domain_documents_have_faults_only_without_the_teacher_prompt(domain: Domain) -> None:
    config = resolve(domain.preset)
    prompts = base.Prompts(config, TOKENIZER)

    def first(faults: bool) -> list[tuple[bool, str, str]]:
        stream = islice(base.documents(domain, prompts, TOKENIZER, 0, faults), 40)
        drawn = zip(domain.examples("pretrain", 0), stream, strict=False)
        return [
            (
                prompts.ids(example, None) == found.prompt,
                example.right,
                TOKENIZER.decode(found.completion).removesuffix("<|im_end|>"),
            )
            for example, found in drawn
        ]

    assert all(text == right for _, right, text in first(faults=False))
    students = [text == right for student, right, text in first(faults=True) if student]
    teachers = [text == right for student, right, text in first(faults=True) if not student]
    assert all(teachers) and teachers and 0 < sum(students) < len(students)


@each_domain
def test_domain_prompts_are_those_of_a_run(domain: Domain) -> None:
    config = resolve(domain.preset)
    prompts, builder = base.Prompts(config, TOKENIZER), PromptBuilder(config, TOKENIZER)
    example = next(domain.examples("train"))
    problem = base.problem_of(example, config)
    reference = Reference(example.reference, "columns")
    assert prompts.ids(example, None) == builder.student(problem).ids
    assert (
        prompts.ids(example, example.reference) == builder.teacher(problem, reference=reference).ids
    )


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("sea fog elm", (1.0, "")),
        ("sea fog", (2 / 3, "2 words, not 3")),
        ("fog sea elm", (2 / 3, "sea is not first")),
        ("sea owl fog elm", (1 / 3, "4 words, not 3; owl is there")),
        ("", (1 / 3, "0 words, not 3; sea is not first")),
    ],
)
def test_domain_rules_say_which_constraint_is_broken(
    completion: str, expected: tuple[float, str]
) -> None:
    problem = SimpleNamespace(fields={"count": 3, "first": "sea", "avoid": "owl"})
    found, feedback = score(problem, completion)
    assert (pytest.approx(found), feedback) == expected


def test_domain_base_model_is_written_with_its_measurements(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    domain = DOMAINS["constraints"]
    config = kit.config_of(domain, tmp_path, **{"sampling.max_new_tokens": 2})
    recipe = replace(
        base.RECIPE, hidden=16, layers=1, intermediate=16, heads=1, key_value_heads=1, batch=4,
        school=1, steps=2, evaluate_every=2, evaluate_problems=2,
    )  # fmt: skip
    told: list[Any] = []
    history = base.pretrain(domain, config, tmp_path, lambda *each: told.append(each), recipe)
    assert [step for step, _, _ in told] == [1, 2] and told[1][2] == history[0]
    written = json.loads((tmp_path / "recipe.json").read_text())
    assert written["history"][0]["step"] == 2 and (tmp_path / "model.safetensors").is_file()


def test_domain_folder_is_made_again_only_where_its_sources_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in(domain: Domain, config: Any, folder: Path, *_: Any) -> None:
        folder.mkdir()

    monkeypatch.setattr(kit, "pretrain", stand_in)
    monkeypatch.setattr(kit, "SAMPLED", 2)
    domain, folder = DOMAINS["json"], tmp_path / "json"
    assert kit.make(domain, folder, print) and not kit.make(domain, folder, print)
    (folder / "run-0").mkdir()
    assert kit.make(domain, folder, print, replace(base.RECIPE, steps=7))
    assert not (folder / "run-0").exists()


def write_run(folder: Path, before: list[float], after: list[float]) -> Path:
    """A finished run with only what the results read."""
    folder.mkdir(parents=True)
    rows = [
        {"step": 0, "split": "validation", "correct": [0.0]},
        {"step": 0, "split": "test", "correct": before},
        {"step": 4, "split": "test", "correct": [0.0] * len(before)},
        {"step": 2, "split": "test", "correct": after},
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"best_step": 2, "tokens": {"generated": 1000}, "cpu_seconds": 3.0}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "preflight.json").write_text(json.dumps({"teacher": {"value": 0.75}}))
    return folder


def test_domain_outcome_is_the_gain_at_the_best_checkpoint_with_its_interval(
    tmp_path: Path,
) -> None:
    runs = [
        write_run(tmp_path / "0", [1, 0, 0, 0], [1, 1, 1, 0]),
        write_run(tmp_path / "1", [0, 0, 1, 0], [1, 1, 1, 1]),
    ]
    found = results.outcome_of("json", "json", runs)
    assert (found.seeds, found.problems, found.with_reference) == (2, 4, 0.75)
    assert (found.before.value, found.after.value, found.gain.value) == (0.25, 0.875, 0.625)
    assert found.gain.low < 0.625 < found.gain.high
    exact = replace(found, before=Estimate(0.25, 0.1, 0.5))
    assert "| json | `json` | 2 | 75.0% | 25.0% (10.0–50.0) | 87.5%" in results.table([exact])
    unknown = replace(found, with_reference=None)
    assert "| json | `json` | 2 | – |" in results.table([unknown])


Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with these arguments; nothing is pretrained."""

    def called(*arguments: str) -> int:
        argv = ["domains", "--out", str(tmp_path), *arguments]
        monkeypatch.setattr("sys.argv", argv)
        return command.main()

    monkeypatch.setattr(command, "make", lambda *_: True)
    return called


def test_domain_command_names_an_unknown_domain(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run("--only", "json,poems")
    assert left.value.code == 2 and "there is no domain 'poems'" in capsys.readouterr().err


def test_domain_command_goes_on_after_a_run_that_failed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "json" / "run-0", [0, 0], [1, 0])

    def failing(*_: Any, **__: Any) -> None:
        raise DataError("no rows", "give some")

    monkeypatch.setattr(command, "train", failing)
    assert run("--only", "choice,json") == 1
    said = capsys.readouterr()
    assert "choice: no rows\ngive some" in said.err and "| json | `json` | 1 |" in said.out
    (found,) = json.loads((tmp_path / "results.json").read_text())
    assert found["domain"] == "json" and found["gain"]["value"] == 0.5


@each_domain
def test_missing_files_of_a_domain_preset_name_the_command_that_makes_them(
    domain: Domain,
) -> None:
    config = resolve(domain.preset)
    paths = [config.model, config.data.train, config.data.validation, config.data.test]
    for path in paths:
        hint = how_to_make(path or "") or ""
        assert f"python -m benchmarks.domains --out domains --only {domain.name} --make-" in hint
        assert "a clone of the repository" in hint
    assert nearest_folder(Path(config.model)) == how_to_make(config.model)
    assert set(made_domains) == set(DOMAINS)
    grader = config.grading.grader.partition(":")[0]
    assert (how_to_make(grader) is not None) == (".py" in grader)
    assert how_to_make(f"data/{domain.name}/train.jsonl") is None
    assert how_to_make("domains/law/train.jsonl") is None
