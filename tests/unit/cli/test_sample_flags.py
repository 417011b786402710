"""`opsd sample`: flags of length, temperature and number, and the config keys that they set."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.cli import Opsd


def sampled(opsd: Opsd, flags: str) -> dict[str, Any]:
    code, out, err = opsd(f"sample '1 + 2' --json {flags}")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("how", ["evaluation", "training"])
def test_sample_flags_of_length_temperature_and_number(opsd: Opsd, how: str) -> None:
    flags = f"--sampling {how} --max-tokens 2 --temperature 0.25 --samples 3 --seed 5"
    found = sampled(opsd, flags)
    assert (found["sampling"]["max_new_tokens"], found["sampling"]["temperature"]) == (2, 0.25)
    assert len(found["completions"]) == 3
    assert all(entry["tokens"] <= 2 for entry in found["completions"])
    section = "sampling" if how == "training" else "evaluation"
    keys = f"--set {section}.max_new_tokens=2 --set {section}.temperature=0.25"
    assert found == sampled(opsd, f"--sampling {how} {keys} --n 3 --seed 5")


def test_sample_max_tokens_has_the_bounds_of_its_key(opsd: Opsd) -> None:
    code, _, err = opsd("sample '1 + 2' --max-tokens 0")
    assert code == 2 and "evaluation.max_new_tokens" in err
    code, _, err = opsd("sample '1 + 2' --sampling training --max-tokens 0")
    assert code == 2 and "sampling.max_new_tokens" in err and "evaluation" not in err


def test_sample_temperature_is_kept_beside_recommended_sampling(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opsd_cli import inspection

    def recommended(config: Any, _: Any) -> tuple[Any, str]:
        section = config.evaluation.model_copy(update={"temperature": 0.6, "top_p": 0.95})
        return config.model_copy(update={"evaluation": section}), "a model card"

    monkeypatch.setattr(inspection, "with_recommended", recommended)
    found = sampled(opsd, "--temperature 0 --set evaluation.sampling=recommended")["sampling"]
    assert (found["temperature"], found["top_p"]) == (0.0, 0.95)
