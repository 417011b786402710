"""Commands in hints: with the settings that the failing command was typed with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opsd_cli import typed_settings
from opsd_cli.cli.request import request
from opsd_cli.problems.anomalies import how_to_list
from opsd_cli.training.preflight_failure import check, look


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    typed_settings.note(None)


def test_hints_of_a_failed_preflight_have_the_settings_that_were_typed() -> None:
    request(
        ["opsd.yaml"], ["teacher.reference=Hint: {hint}", "data.train=a b.jsonl"], "cpu", "m", None,
        3, False, False, False, method="opsd", log=["wandb"],
        aliases={"optimizer.learning_rate": 1e-4, "train.steps": None},
    )  # fmt: skip
    settings = (
        "--config opsd.yaml --set 'teacher.reference=Hint: {hint}' --set 'data.train=a b.jsonl' "
        "--backend cpu --model m --seed 3 --set method=opsd --set optimizer.learning_rate=0.0001"
    )
    assert check().startswith(f"opsd train --preflight-only {settings} measures again")
    assert look().startswith(f"opsd sample --privileged {settings} shows")
    assert how_to_list("a b.jsonl") == (
        "To list such rows: opsd data check 'a b.jsonl' --config opsd.yaml "
        "--set 'teacher.reference=Hint: {hint}'"
    )


def test_hints_name_no_settings_where_none_were_typed_and_say_so_where_none_are_known() -> None:
    request(None, None, None, None, None, None, False, False, False)
    assert check().startswith("opsd train --preflight-only measures again")
    typed_settings.note(None)
    assert "opsd train --preflight-only (with the same settings) measures" in check()
