"""`report.html` of an evaluation: results, problems, and a page with the samples of each problem.

Every problem has a page of its own under `pages/`, since thirty problems with sixteen long
completions each are too large for one. All text from models and data sets is escaped: a completion
can contain any markup.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from opsd_cli.evaluation.description import setting_name
from opsd_cli.evaluation.directory import REPORT, EvaluationDirectory
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.evaluation.stored import StoredEvaluation
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.directory_lock import lock_holder
from opsd_cli.formatting import (
    count,
    gain_by_part,
    nats,
    percent,
    points,
    score,
    score_change,
    share,
)
from opsd_cli.reports.page import folded, html_page, named_adapter, named_model, scrolled, table
from opsd_cli.statistics import Estimate

PAGES = "pages"
#: Characters of a question that the list of problems shows.
QUESTION_SHOWN = 90
#: Maximum length in characters of a completion that is shown unfolded.
SHORT = 600


def write_evaluation_report(
    directory: EvaluationDirectory,
    results: Mapping[str, Evaluation],
    summary: Mapping[str, Any],
    out: Path | None = None,
    unfinished: StoredEvaluation | None = None,
) -> Path:
    """Write `report.html` and a page for each problem.

    Args:
        directory: the evaluation's directory, which has the problems' texts.
        results: the measured results by benchmark.
        summary: contents of results.json, with the differences from another evaluation if any.
        out: the directory to write to; by default the evaluation's.
        unfinished: what there is of an evaluation that has not finished.

    Returns:
        The path of `report.html`.
    """
    out = out or directory.path
    pages = out / PAGES
    shutil.rmtree(pages, ignore_errors=True)
    questions, prompts = directory.problems(), directory.prompts()
    description = directory.description
    sections = [f"<h1>{escape(_verdict(results, description, unfinished))}</h1>"]
    if unfinished is not None:
        sections.append(f"<p class=remark>{escape(_state(directory.path, unfinished))}</p>")
    if results:
        sections.append(_results(results, summary))
    for number, (name, result) in enumerate(results.items()):
        folder = pages / str(number)
        folder.mkdir(parents=True)
        rows = []
        known = questions[name]
        for place, problem_id in enumerate(result.problem_ids):
            samples = _samples_of(result, place)
            target = folder / f"{place + 1}.html"
            write_atomic(
                target,
                _problem_page(
                    name,
                    result,
                    place,
                    known[problem_id] | {"prompt": prompts.get(name, {}).get(problem_id, "")},
                    samples,
                ),
            )
            link = target.relative_to(out).as_posix()
            rows.append(_row(place, link, known[problem_id], samples))
        sections.append(_problems(name, rows, result.graded))
    sections.append(_measured(description))
    page = html_page(f"opsd eval: {directory.path.name}", sections)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / REPORT, page)
    return out / REPORT


def _measured(description: Mapping[str, Any]) -> str:
    """What was measured, folded: a row a setting, in words."""
    rows = [
        (setting_name(key), value if isinstance(value, str) else json.dumps(value, indent=1))
        for key, value in description.items()
        if value is not None
    ]
    found = table(("setting", "value"), rows)
    return f"<details><summary>what was measured</summary>{found}</details>"


def _state(path: Path, unfinished: StoredEvaluation) -> str:
    """Where an unfinished evaluation stands, and that its accuracies are not of all problems."""
    graded = ", ".join(
        f"{name} {there:,} of {wanted:,} samples"
        for name, (there, wanted) in unfinished.graded.items()
    )
    holder = lock_holder(path)
    at_work = f"At the time of this page the evaluation was at work ({holder})"
    state = "The evaluation was interrupted" if holder is None else at_work
    return (
        f"{state}: {graded}. The page has the problems whose samples are all there. Short "
        "completions finish first, so the accuracy of these problems does not estimate that of all "
        f"of them. Go on with it: opsd eval --resume --out {path}"
    )


def _verdict(
    results: Mapping[str, Evaluation],
    description: Mapping[str, Any],
    unfinished: StoredEvaluation | None,
) -> str:
    model = named_model(description["model"])
    if description["adapter"] is not None:
        model += f" with the adapter {named_adapter(description['adapter'])}"
    if not results:
        return f"The evaluation of {model} has not finished: no problem has all of its samples yet."
    parts = [f"{name} {_measured_text(result)}" for name, result in results.items()]
    k = next(iter(results.values())).samples_per_problem
    samples = "1 sample" if k == 1 else f"{k} samples"
    if unfinished is not None:
        so_far = sum(len(result.problem_ids) for result in results.values())
        return f"The evaluation of {model} has not finished. {so_far} problems so far: " + (
            f"{', '.join(parts)}; {samples} a problem."
        )
    graded = all(result.graded for result in results.values())
    what = "Accuracy" if graded else "Nothing is graded; log-probability of the solutions"
    return f"{what} of {model}: {', '.join(parts)}; {samples} a problem, 95% intervals by problem."


def _measured_text(result: Evaluation) -> str:
    """The accuracy or, where nothing is graded, the likelihood of the solutions."""
    if result.accuracy is not None:
        return percent(result.accuracy)
    likely = result.reference_log_prob
    return "unknown (there are none)" if likely is None else f"{nats(likely)} nats a token"


def _results(results: Mapping[str, Evaluation], summary: Mapping[str, Any]) -> str:
    graded = all(result.graded for result in results.values())
    flexible = any(result.flexible_accuracy is not None for result in results.values())
    scored = any(result.mean_score is not None for result in results.values())
    voted = any(result.majority is not None for result in results.values())
    columns: list[tuple[str, bool, Callable[[Evaluation], str]]] = [
        ("avg@k", graded, lambda one: _or_dash(one.accuracy, percent)),
        (
            "log-probability of the solutions, nats a token",
            not graded,
            lambda one: _or_dash(one.reference_log_prob, nats),
        ),
        ("mean score", scored, lambda one: _or_dash(one.mean_score, score)),
        ("flexible", flexible, lambda one: _or_dash(one.flexible_accuracy, percent)),
        ("pass@k", graded, lambda one: percent(one.pass_at[one.samples_per_problem])),
        ("maj@k", voted, lambda one: _or_dash(one.majority, percent)),
        ("cut off", True, lambda one: share(one.truncated)),
        ("no answer", graded, lambda one: share(one.no_answer or 0)),
    ]
    shown = [(head, cell) for head, there, cell in columns if there]
    rows = []
    for name, result in results.items():
        cells = (escape(name), len(result.problem_ids), *(cell(result) for _, cell in shown))
        rows.append("<tr>" + "".join(f"<td class=nowrap>{cell}" for cell in cells))
    heads = ("benchmark", "problems", *(head for head, _ in shown))
    text = scrolled(heads, "".join(rows))
    if flexible:
        text += (
            "<p class=dim>flexible: right by the last number or expression, whatever its form; "
            "what it exceeds avg@k by is what the form of the answers costs "
            "(docs/evaluation.md).</p>"
        )
    differences = []
    for name, entry in summary["benchmarks"].items():
        against = entry.get("against")
        if against:
            value = Estimate(**against["difference"])
            text_of = points(value)
            if flexible := against.get("flexible_difference"):
                text_of += f": {gain_by_part(value.value, flexible['value'])}"
            if "score_difference" in against:
                text_of += f"; mean score {score_change(against['score_difference'])}"
            differences.append(f"<li>{escape(name)}: {text_of}")
    if differences:
        other = escape(str(summary["against"]))
        text += f"<h2>Against {other}</h2><ul>{''.join(differences)}</ul>"
    return f"<h2>Results</h2>{text}<h2>Tokens of a sample</h2>{_lengths(results)}"


def _or_dash(estimate: Estimate | None, shown: Callable[[Estimate], str]) -> str:
    return "–" if estimate is None else shown(estimate)


def _lengths(results: Mapping[str, Evaluation]) -> str:
    """A table of the completions' lengths in tokens."""
    kinds = {
        "mean": "mean", "mean_of_right": "mean if right", "mean_of_wrong": "mean if wrong",
        "median": "median", "p90": "90% have at most", "max": "longest",
        "total": "all samples together",
    }  # fmt: skip
    if not all(result.graded for result in results.values()):
        del kinds["mean_of_right"], kinds["mean_of_wrong"]
    rows = []
    for name, result in results.items():
        found = result.token_statistics()
        rows.append((name, *(_count(found[kind]) for kind in kinds)))
    return table(("benchmark", *kinds.values()), rows)


def _problems(name: str, rows: Sequence[str], graded: bool) -> str:
    grades = ("answer", "right", "commonest wrong answer") if graded else ()
    heads = ("#", "problem", *grades, "mean tokens")
    return f"<h2>{escape(name)}</h2>{scrolled(heads, ''.join(rows))}"


def _row(place: int, link: str, known: Mapping[str, str], samples: Sequence[Sample]) -> str:
    right = sum(bool(sample.correct) for sample in samples)
    wrong = Counter(s.answer for s in samples if not s.correct and s.answer is not None)
    commonest = ""
    if wrong:
        answer, times = wrong.most_common(1)[0]
        commonest = f"{escape(_short(answer, 40))} <span class=dim>× {times}</span>"
    question = escape(_short(known["question"], QUESTION_SHOWN))
    mean = sum(sample.tokens for sample in samples) / len(samples)
    first = f'<tr><td>{place + 1}<td><a href="{link}">{question}</a>'
    if any(sample.correct is None for sample in samples):
        return f"{first}<td>{count(mean)}"
    bar = f"<meter min=0 max={len(samples)} value={right}></meter> {right}/{len(samples)}"
    return (
        f"{first}<td>{escape(_short(known['answer'], 40))}<td class=nowrap>{bar}<td>{commonest}"
        f"<td>{count(mean)}"
    )


def _problem_page(
    name: str,
    result: Evaluation,
    place: int,
    known: Mapping[str, str],
    samples: Sequence[Sample],
) -> str:
    last = len(result.problem_ids) - 1
    links = ['<a href="../../report.html">all problems</a>']
    links += [f'<a href="{place}.html">previous</a>'] if place > 0 else []
    links += [f'<a href="{place + 2}.html">next</a>'] if place < last else []
    right = sum(bool(sample.correct) for sample in samples)
    found = f": {right} of {len(samples)} right" if result.graded else ""
    cards = []
    for sample in samples:
        verdict = "right" if sample.correct else sample.status.replace("_", " ")
        answer = "" if sample.answer is None else f", answer {escape(_short(sample.answer, 60))}"
        if sample.flexible_correct and not sample.correct:
            answer += f"; right with flexible extraction: {escape(str(sample.flexible_answer))}"
        if sample.other_answer is not None:
            answer += f"; says {escape(_short(sample.other_answer, 60))} too"
        if sample.score is not None:
            answer += f", score {sample.score:.3g}"
        said = f"<p>{escape(sample.feedback)}</p>" if sample.feedback else ""
        cut = ", cut off" if sample.finish_reason == "length" else ""
        opened = " open" if len(sample.completion) <= SHORT else ""
        cards.append(
            f"<details{opened}><summary>sample {sample.sample_index}: {escape(verdict)}{answer}, "
            f"{sample.tokens:,} tokens{cut}</summary><pre>{escape(sample.completion)}</pre>"
            f"{said}</details>"
        )
    title = f"{name}, problem {place + 1} of {last + 1}"
    sections = [
        f"<p>{' · '.join(links)}</p>",
        f"<h1>{escape(title)}{found}</h1>",
        f"<p class=dim>id {escape(result.problem_ids[place])}</p>",
        f"<h2>Question</h2><pre>{escape(known['question'])}</pre>",
        f"<h2>Answer</h2><pre>{escape(known['answer'])}</pre>" if known["answer"] else "",
        folded("prompt as sent", known["prompt"]) if known["prompt"] else "",
        f"<h2>Samples</h2>{''.join(cards)}",
    ]
    return html_page(title, sections)


def _samples_of(result: Evaluation, place: int) -> tuple[Sample, ...]:
    k = result.samples_per_problem
    return result.samples[place * k : (place + 1) * k]


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _count(number: float | None) -> str:
    return "–" if number is None else count(number)
