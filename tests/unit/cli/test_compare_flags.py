"""`opsd compare` and the flags of `opsd train`: those of all methods, and hints at the rest."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from opsd_cli.cli.compare_options import OF_EACH_METHOD
from tests.support.cli import Opsd

TOKENS = "generated_tokens_at_most"
PLAN = "compare --dry-run --json --methods opsd,grpo"


def planned(opsd: Opsd, flags: str) -> dict[str, Any]:
    """The plan of each method by name."""
    code, out, err = opsd(f"{PLAN} {flags}")
    assert code == 0, err
    plan: dict[str, Any] = json.loads(out)["plan"]
    return plan


def test_compare_takes_the_length_of_completions_for_every_method(opsd: Opsd) -> None:
    whole, short = planned(opsd, ""), planned(opsd, "--max-tokens 8 --temperature 0.5")
    for method in ("opsd", "grpo"):
        assert 10 * short[method][TOKENS] == whole[method][TOKENS]


@pytest.mark.parametrize("flag", [f"{flag} 10" for flag in OF_EACH_METHOD])
def test_compare_hints_at_settings_that_work_in_place_of_a_flag(opsd: Opsd, flag: str) -> None:
    code, _, err = opsd(f"compare {flag}")
    assert code == 2
    for_all, for_one = re.findall(r"--set \S+=10", err)
    changed = [planned(opsd, each) for each in (for_all, for_one)]
    before = planned(opsd, "")
    if "optimizer" in for_all:  # which no plan depends on
        return
    assert changed[0]["opsd"][TOKENS] != before["opsd"][TOKENS] == changed[1]["opsd"][TOKENS]
    assert changed[1]["grpo"][TOKENS] == changed[0]["grpo"][TOKENS] != before["grpo"][TOKENS]
