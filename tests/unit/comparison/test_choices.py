"""Which choice helped: outcomes and verdicts of the arms of `--vary`, in numbers and words."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opsd_cli.comparison.choice_words import (
    brief,
    caution,
    headline,
    needed_text,
    only_choices,
    others,
)
from opsd_cli.comparison.choices import HELPED, HURT, UNKNOWN, choices, variation_of
from opsd_cli.comparison.session import Comparison
from opsd_cli.comparison.stored import stored_comparison
from opsd_cli.comparison.summary import COMPARISON, summarise
from opsd_cli.comparison.verdict import title, verdict
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import json_safe
from opsd_cli.reports.choices_section import choices_section
from opsd_cli.reports.comparison_pages import write_comparison_pages
from opsd_cli.reports.comparison_report import methods_section
from opsd_cli.tracking.listener import Listener
from tests.support.varied_runs import varied_runs

FASTER, LIKE = "opsd divergence.kind=reverse_kl", "opsd divergence.kind=jsd"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A comparison of two choices on three seeds; one learns faster than the base."""
    directory = tmp_path_factory.mktemp("varied")
    groups, variation = varied_runs(directory, [0, 1, 2])
    summary = summarise(groups, directory, variation=variation, replicates=50)
    (directory / COMPARISON).write_text(json.dumps(json_safe(summary)))
    return Comparison(summary, groups, directory)


def test_choices_pair_accuracy_by_seed_and_problem(compared: Comparison) -> None:
    found = compared.summary["choices"]
    best = {
        label: np.stack([c.correct_EP[c.steps.index(c.result["best_step"])] for c in curves])
        for label, curves in compared.groups.items()
    }
    for label, arm in others(found).items():
        assert arm["difference"]["best"]["value"] == pytest.approx(
            float((best[label] - best["opsd"]).mean())
        )
        assert arm["accuracy"]["best"]["value"] == pytest.approx(float(best[label].mean()))
        assert arm["pass_at"]["k"] == 2
        assert arm["pass_at"]["value"] == pytest.approx(float((best[label] > 0).mean()))
    assert found["comparisons"] == 2 and found["base_values"] == {"divergence.kind": "forward_kl"}


def test_choices_that_differ_much_are_told_and_others_are_not(compared: Comparison) -> None:
    arms = compared.summary["choices"]["arms"]
    assert arms[FASTER]["verdict"] == HELPED and arms[FASTER]["seeds_needed"] is None
    assert arms[FASTER]["p_adjusted"] <= 0.05 < arms[LIKE]["p_adjusted"]
    assert arms[LIKE]["verdict"] == UNKNOWN
    assert "verdict" not in arms["opsd"]


def test_choices_against_a_faster_base_hurt(compared: Comparison) -> None:
    variation = variation_of(compared.summary["choices"])
    turned = type(variation)(FASTER, {}, {"opsd": {"divergence.kind": "forward_kl"}}, {})
    found = choices(compared.groups, turned)
    assert found is not None and found["arms"]["opsd"]["verdict"] == HURT


def test_choices_have_lengths_hedges_tokens_and_the_change_on_the_watch_set(
    compared: Comparison,
) -> None:
    arm = compared.summary["choices"]["arms"][FASTER]
    changes, lengths = [], []
    for curve in compared.groups[FASTER]:
        rows = {
            (r["split"], r["step"]): r for r in read_rows(curve.directory / "evaluations.jsonl")
        }
        ends = [rows["watch", step]["correct"] for step in (0, curve.result["best_step"])]
        changes.append(np.mean(np.subtract(ends[1], ends[0])))
        lengths.append(rows["test", curve.result["best_step"]]["mean_tokens"])
    assert arm["watch_change"]["value"] == pytest.approx(float(np.mean(changes)))
    assert arm["mean_tokens"]["value"] == pytest.approx(float(np.mean(lengths)))
    assert arm["hedges_per_100_words"]["value"] == 0.0 and arm["generated"]["value"] > 0
    assert arm["difference"]["watch_change"]["low"] > 0  # it also learns the watch set faster


def test_choices_are_absent_without_the_base(compared: Comparison) -> None:
    variation = variation_of(compared.summary["choices"])
    assert choices({FASTER: compared.groups[FASTER]}, variation) is None
    assert choices({"opsd": compared.groups["opsd"]}, variation) is None


def test_choice_of_one_seed_says_that_it_does_not_show_how_many_would_tell(tmp_path: Path) -> None:
    groups, variation = varied_runs(tmp_path, [0])
    found = choices(groups, variation)
    assert found is not None
    arm = found["arms"][LIKE]
    assert arm["seeds_needed"] is None
    assert "one seed does not show" in needed_text(arm, 1)
    assert "One seed" in caution(found, 1)
    assert found["arms"][FASTER]["mean_tokens"]["low"] is None
    section = choices_section({"choices": found, "seeds": [0], "methods": found["arms"]})
    assert "one seed does not show" in section


def test_choices_that_all_kept_the_untrained_model_name_that_cause(tmp_path: Path) -> None:
    groups, variation = varied_runs(tmp_path, [0], gains=(-0.3, -0.3, -0.3))
    found = choices(groups, variation)
    assert found is not None
    assert "kept the untrained model (step 0)" in needed_text(found["arms"][LIKE], 1)
    assert "Every arm kept the untrained model" in headline(found)
    section = choices_section({"choices": found, "seeds": [0], "methods": {}})
    assert "Every arm kept" in section and "no difference was observed" not in section


def test_choices_and_methods_name_the_estimators_of_their_intervals(compared: Comparison) -> None:
    assert "two-way table of seeds and problems" in choices_section(compared.summary)
    assert "bootstrap over seeds and problems" in methods_section(compared.summary)


def test_choice_words_name_each_verdict_and_the_seeds(compared: Comparison) -> None:
    summary = compared.summary
    found = deepcopy(summary["choices"])
    assert only_choices(summary)
    assert verdict(summary) == headline(found)
    assert "untrained" not in verdict(summary)
    assert "helped: divergence.kind=reverse_kl (+" in verdict(summary)
    assert "cannot be told apart: divergence.kind=jsd" in verdict(summary)
    assert title(summary) == brief(found) == ("opsd, 2 choices: 1 helped, 1 cannot be told apart")
    arm = found["arms"][LIKE]
    arm["seeds_needed"] = 9
    assert needed_text(arm, 3) == "about 6 more seeds would tell"
    arm["seeds_needed"] = 4
    assert needed_text(arm, 3) == "about 1 more seed would tell"
    arm["seeds_needed"] = None
    assert "more test problems may" in needed_text(arm, 3)
    assert "as much as 10%" in caution(found, 3) and "Holm's" in caution(found, 3)
    found["arms"][FASTER]["detectable"], arm["detectable"] = 0.3, 4.0  # two seeds that differ much
    assert "30.0 to more than 100 points" in caution(found, 3)
    found["arms"][FASTER]["detectable"] = 2.0
    assert "no true difference would be found" in caution(found, 3)


def test_choices_beside_another_method_leave_the_token_efficiency_its_headline(
    compared: Comparison,
) -> None:
    beside = compared.summary | {"methods": {**compared.summary["methods"], "grpo": {}}}
    assert not only_choices(beside)
    assert headline(beside["choices"]) in choices_section(beside).replace("&#x27;", "'")


def test_choices_page_has_a_dot_inside_each_interval(compared: Comparison, tmp_path: Path) -> None:
    write_comparison_pages(compared, Listener(), tmp_path, sample=False)
    page = (tmp_path / "report.html").read_text()
    assert "Which choice helped" in page and "change on the watch set" in page
    spans = re.findall(r"class=span style=\"left:([-\d.]+)%;width:([\d.]+)%", page)
    dots = re.findall(r"class=dot style=\"left:([-\d.]+)%", page)
    assert len(spans) == len(dots) == 2
    for (left, width), dot in zip(spans, dots, strict=True):
        assert 0 <= float(left) <= float(dot) <= float(left) + float(width) + 0.02 <= 100.1
    assert "<script" not in page


def test_stored_comparison_has_its_choices_again(compared: Comparison) -> None:
    again = stored_comparison(compared.directory)
    assert again is not None
    assert json_safe(again.summary["choices"]) == json_safe(compared.summary["choices"])


def test_comparison_without_vary_has_no_choices(compared: Comparison) -> None:
    summary: dict[str, Any] = summarise(compared.groups, compared.directory, replicates=20)
    assert "choices" not in summary and choices_section(summary) == ""
    assert "fewer generated tokens" in verdict(summary) or "ratio" in verdict(summary)
