r"""An evaluation's speed, memory and grades against lm-evaluation-harness and lighteval.

    python benchmarks/evaluation_speed.py --model kit/model --rounds 3

The peers are `lm-eval==0.4.13` and `lighteval==0.13.0`. Their requirements exclude each other's and
ours, so each may have an environment of its own with psutil: `--lm-eval-python PATH`,
`--lighteval-python PATH`. A tool that cannot be imported there is left out. Model and problems are
those of `python -m benchmarks.real.make --out kit`: the first problems of family_relationships'
test file under the prompts of `benchmarks/real/family.yaml`, which have a worked example. Prompts
are rendered once and given to every tool as text.
Greedy, in float32, one completion of at most 32 tokens; the end-of-text token alone stops it.

`opsd eval` runs with its directory and page. lm-evaluation-harness has its `hf` model and a task in
YAML (`generate_until`; the last box by a regular expression; exact match), lighteval its
transformers model and a task with the same rule, and both write their results and samples. Each
tool has a process of its own, and they take turns. Loading (imports, problems, weights) is
measured apart from the evaluation (generation, grading, files). CPU time is that of the process and
its children; memory is the greatest resident set of the process and, with it, of its children.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import ROOT, Found, Meter, parser, take_turns
from benchmarks.peer_tasks import NAME, write_lighteval_task, write_lm_eval_task
from benchmarks.tables import Table

CONFIG = ROOT / "benchmarks" / "real" / "family.yaml"
#: Most tokens of a completion.
LONGEST = 32
#: What the folder of a comparison holds: the problems with their prompts, the tasks of the two
#: peers, and each tool's completions.
PROBLEMS, LM_EVAL_TASK, LIGHTEVAL_TASK = "data/test.jsonl", "tasks/family.yaml", "tasks/family.py"
COMPLETIONS = "{}.json"
#: Options that name files, as `Case` has them.
PATHS = ("model", "problems", "examples")
DETAILS = (
    "| batch | tool | problems a second (of CPU) | loading: CPU, memory after it "
    "| children's memory | accuracy by its own grades | by ours | completions equal to ours |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Case:
    """What a process measures: the comparison's folder, the model, the data and the batch."""

    folder: Path
    model: Path
    problems: Path
    examples: Path
    limit: int
    batch: int
    threads: int
    #: An empty folder for what the tool writes.
    out: Path = Path()

    def config(self) -> Any:
        """Our config of the case."""
        from opsd_cli.loading import load_config

        return load_config(
            CONFIG, model=self.model, backend="cpu",
            **{"data.train": self.examples, "data.validation": None, "data.test": None,
               "rollouts.batch_size": self.batch, "sampling.max_new_tokens": LONGEST},
        )  # fmt: skip


#: Completions in the problems' order, and the accuracy by the tool's own grades.
Outcome = tuple[list[str], float]


def ours(case: Case, meter: Meter) -> Outcome:
    from opsd_cli.evaluation.preparation import prepare
    from opsd_cli.evaluation.session import run
    from opsd_cli.reports.evaluation_report import write_evaluation_report
    from opsd_cli.tracking.listener import Listener

    listener = Listener()
    session = prepare(case.config(), None, [str(case.problems)], case.limit, listener)

    def watch(measure: Callable[[Listener], Any]) -> Any:
        meter.loaded()
        return measure(listener)

    out = case.out / "evaluation"
    result = run(session, out, listener, watch=watch, write_report=write_evaluation_report)
    return [sample.completion for sample in result.samples], result.accuracy.value


def lm_eval(case: Case, meter: Meter) -> Outcome:
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str((case.folder / LM_EVAL_TASK).parent), include_defaults=False
    )
    task = manager.load([NAME])["tasks"][NAME]
    model = HFLM(str(case.model), device="cpu", dtype="float32", batch_size=case.batch)
    tracker = EvaluationTracker(output_path=str(case.out / "results"))
    meter.loaded()
    found: Any = simple_evaluate(
        model, tasks=[task], task_manager=manager, evaluation_tracker=tracker
    )
    samples = found.pop("samples")
    tracker.save_results_aggregated(found, samples)
    tracker.save_results_samples(NAME, samples[NAME])
    by_number = sorted(samples[NAME], key=lambda sample: sample["doc_id"])
    texts = [sample["resps"][0][0] for sample in by_number]
    return texts, found["results"][NAME]["exact_match,box"]


def linked(case: Case) -> Path:
    """A new folder with links to the model's files: lighteval keeps its answers beside them."""
    folder = Path(tempfile.mkdtemp(dir=case.folder))
    for path in case.model.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def lighteval(case: Case, meter: Meter) -> Outcome:
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.models.model_input import GenerationParameters
    from lighteval.models.transformers.transformers_model import TransformersModelConfig
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters
    from lighteval.tasks.registry import Registry

    # Its own tasks are not read: some of them ask the network as they are imported.
    Registry._load_from_files = Registry._load_from_subdirs = staticmethod(lambda *_: {})
    settings = TransformersModelConfig(
        model_name=str(linked(case)), batch_size=case.batch, dtype="float32", device="cpu",
        add_special_tokens=False, override_chat_template=False,
        cache_dir=str(case.out / "cache"),
        generation_parameters=GenerationParameters(temperature=0.0),
    )  # fmt: skip
    tracker = EvaluationTracker(output_dir=str(case.out / "results"), save_details=True)
    parameters = PipelineParameters(
        launcher_type=ParallelismManager.ACCELERATE,
        custom_tasks_directory=str(case.folder / LIGHTEVAL_TASK),
    )
    pipeline = Pipeline(f"{NAME}|0", parameters, tracker, model_config=settings)
    meter.loaded()
    pipeline.evaluate()
    pipeline.save_and_push_results()
    (details,) = pipeline.get_details().values()
    by_number = sorted(details, key=lambda detail: int(detail.doc.id))
    texts = [detail.model_response.text[0] for detail in by_number]
    return texts, float(pipeline.get_results()["results"]["all"]["box"])


@dataclass(frozen=True)
class Tool:
    """What a tool is called, the module that it needs, and its evaluation."""

    called: str
    module: str
    evaluate: Callable[[Case, Meter], Outcome]


TOOLS = {
    "ours": Tool("ours", "opsd_cli", ours),
    "lm-eval": Tool("lm-evaluation-harness", "lm_eval", lm_eval),
    "lighteval": Tool("lighteval", "lighteval", lighteval),
}


def write_comparison(case: Case) -> list[str]:
    """Write the problems with our rendered prompts, and the tasks; returns the gold answers."""
    from transformers import AutoTokenizer

    from backends.shared.tokenizer import HuggingFaceTokenizer
    from opsd_cli.evaluation.evaluate import evaluation_view
    from opsd_cli.evaluation.preparation import prepare
    from opsd_cli.prompts.builder import PromptBuilder
    from opsd_cli.tracking.listener import Listener

    session = prepare(case.config(), None, [str(case.problems)], case.limit, Listener())
    (problems,) = session.sets.values()
    tokenizer = HuggingFaceTokenizer(AutoTokenizer.from_pretrained(case.model))
    builder = PromptBuilder(evaluation_view(session.config, problems.prompt), tokenizer)
    rows = [{"prompt": builder.student(p).text, "answer": p.answer} for p in problems.problems]
    for name in (PROBLEMS, LM_EVAL_TASK):
        (case.folder / name).parent.mkdir()
    (case.folder / PROBLEMS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_lm_eval_task(case.folder / LM_EVAL_TASK, case.folder / PROBLEMS, LONGEST)
    write_lighteval_task(case.folder / LIGHTEVAL_TASK, case.folder / PROBLEMS, LONGEST)
    return [problem.answer or "" for problem in problems.problems]


def measure(tool: str, case: Case) -> dict[str, float]:
    """Evaluate once, in this process; the completions are written to the comparison's folder."""
    import torch

    logging.disable(logging.WARNING)
    torch.set_num_threads(case.threads)
    meter = Meter()
    with (
        tempfile.TemporaryDirectory() as out,
        contextlib.redirect_stdout(sys.stderr),  # the last line of output is this process's own
    ):
        texts, accuracy = TOOLS[tool].evaluate(replace(case, out=Path(out)), meter)
        found = meter.figures()
    (case.folder / COMPLETIONS.format(tool)).write_text(json.dumps(texts))
    return found | {"accuracy": accuracy}


def details(case: Case, tools: list[str], found: Found, golds: list[str]) -> list[str]:
    """Rows of the second table: rates, loading, and the completions of the last round."""
    from opsd_cli.grading.mathematics import MathGrader

    texts = {t: json.loads((case.folder / COMPLETIONS.format(t)).read_text()) for t in tools}
    lines = []
    with MathGrader() as grader:
        for tool in tools:
            rows = found[TOOLS[tool].called]
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            pairs = list(zip(golds, texts[tool], strict=True))
            right = sum(grade.correct for grade in grader.grade_many(pairs))
            same = sum(a == b for a, b in zip(texts[tool], texts[tools[0]], strict=True))
            lines.append(
                f"| {case.batch} | {TOOLS[tool].called} | {len(golds) / middle['wall']:.2f} "
                f"({len(golds) / middle['cpu']:.2f}) "
                f"| {middle['load_cpu']:.1f} s, {middle['resident_mb']:,.0f} MB "
                f"| {middle['children_mb']:,.0f} MB | {100 * middle['accuracy']:.0f}% "
                f"| {100 * right / len(golds):.0f}% | {same} of {len(golds)} |"
            )
    return lines


def importable(python: str, tool: Tool) -> bool:
    """Whether an interpreter finds the tool's module; if not, it is said."""
    check = (
        f"import importlib.util, sys; sys.exit(importlib.util.find_spec({tool.module!r}) is None)"
    )
    found = not subprocess.run([python, "-c", check], cwd=ROOT, check=False).returncode
    if not found:
        print(f"{tool.called} cannot be imported by {python}: left out", file=sys.stderr)
    return found


def arguments() -> argparse.Namespace:
    options = parser(__doc__, rounds=3, saves=True)
    options.add_argument("--model", type=Path, default=Path("kit/model"), help="a model's folder")
    family = "kit/problems/family_relationships-{}.jsonl"
    options.add_argument(
        "--problems", type=Path, default=Path(family.format("test")), help="a file of problems"
    )
    options.add_argument(
        "--examples", type=Path, default=Path(family.format("train")),
        help="a file that the worked example of every prompt is taken from",
    )  # fmt: skip
    options.add_argument("--limit", type=int, default=100, help="problems (100)")
    options.add_argument("--batch", type=int, action="append", help="batch size (16 and 32)")
    options.add_argument("--threads", type=int, default=2, help="threads of PyTorch (2)")
    options.add_argument("--tool", choices=TOOLS, action="append", help="those to run (all)")
    for tool in ("lm-eval", "lighteval"):
        options.add_argument(
            f"--{tool}-python", default=sys.executable, help=f"an interpreter that has {tool}"
        )
    options.add_argument("--measure", nargs=2, metavar=("TOOL", "FOLDER"))
    return options.parse_args()


def main() -> None:
    given = arguments()
    paths = given.model.resolve(), given.problems.resolve(), given.examples.resolve()
    settings = [f"--{name}={path}" for name, path in zip(PATHS, paths, strict=True)]
    settings += [f"--limit={given.limit}", f"--threads={given.threads}"]
    if given.measure:
        tool, folder = given.measure
        case = Case(Path(folder), *paths, given.limit, given.batch[0], given.threads)
        print(json.dumps(measure(tool, case)))
        return
    pythons = {
        "ours": sys.executable,
        "lm-eval": given.lm_eval_python,
        "lighteval": given.lighteval_python,
    }
    chosen = [tool for tool in TOOLS if tool in (given.tool or TOOLS)]
    tools = [tool for tool in chosen if importable(pythons[tool], TOOLS[tool])]
    table, lines = Table("evaluation_speed", "s"), []
    for batch in given.batch or (16, 32):
        with tempfile.TemporaryDirectory() as made:
            case = Case(Path(made), *paths, given.limit, batch, given.threads)
            golds = write_comparison(case)
            command = [__file__, *settings, f"--batch={batch}", "--measure"]
            found = take_turns(
                {TOOLS[tool].called: [pythons[tool], *command, tool, made] for tool in tools},
                given.rounds,
                OMP_NUM_THREADS=str(given.threads),
                MKL_NUM_THREADS=str(given.threads),
                HF_HOME=str(Path(made) / "cache"),
            )
            table.add(f"{len(golds)} problems, batches of {batch}", found)
            lines += details(case, tools, found, golds)
    print("\n".join(["", *DETAILS, *lines]))
    if given.save:
        table.save()


if __name__ == "__main__":
    main()
