"""`opsd eval`: flags of length and temperature, and devices where a teacher would need more."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.devices.number import count
from opsd_cli.errors import UsageError
from opsd_cli.evaluation.recommended_sampling import Recommended
from tests.support.cli import Opsd
from tests.support.fakes import FakePolicy

SHORT = "--max-tokens 2 --temperature 0.25"


def measured(opsd: Opsd, out: str, flags: str) -> dict[str, Any]:
    code, stdout, err = opsd(f"eval --benchmark good.jsonl --limit 2 --json --out {out} {flags}")
    assert code == 0, err
    found: dict[str, Any] = json.loads(stdout)
    return found


def test_eval_flags_of_length_and_temperature_are_those_of_the_evaluation(
    opsd: Opsd, tmp_path: Path
) -> None:
    found = measured(opsd, "e", SHORT)
    assert (found["sampling"]["max_new_tokens"], found["sampling"]["temperature"]) == (2, 0.25)
    assert json.loads((tmp_path / "e/results.json").read_text()) == found
    keys = measured(
        opsd, "k", "--set evaluation.max_new_tokens=2 --set evaluation.temperature=0.25"
    )
    assert found["sampling"] == keys["sampling"] and found["sampling_from"] == "as configured"
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("e", "k")]
    assert samples[0] == samples[1] and '"tokens": 2' in samples[0]
    assert opsd("eval --resume --out e")[0] == 0
    code, _, err = opsd("eval --resume --out e --max-tokens 3")
    assert code != 0 and "made with other settings: sampling" in err


def test_eval_max_tokens_has_the_bounds_of_its_key(opsd: Opsd) -> None:
    code, _, err = opsd("eval --max-tokens 0")
    assert code == 2 and "evaluation.max_new_tokens" in err


def test_eval_temperature_is_kept_beside_recommended_sampling_and_when_resumed(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Recommended(0.6, 0.95, 20, 0.0, "a model card")
    monkeypatch.setattr("opsd_cli.evaluation.recommended_sampling.recommended", lambda *_: card)
    plain = measured(opsd, "plain", "--set evaluation.sampling=recommended")
    assert (plain["sampling"]["temperature"], plain["sampling_from"]) == (0.6, "a model card")
    found = measured(opsd, "e", "--temperature 0 --set evaluation.sampling=recommended")
    assert (found["sampling"]["temperature"], found["sampling"]["top_p"]) == (0.0, 0.95)
    code, again, err = opsd("eval --resume --json --out e")
    assert code == 0, err
    assert json.loads(again)["sampling"] == found["sampling"]


DIVIDED = (
    "--devices 2 --set train.shard=full --set rollouts.engine=vllm "
    "--set teacher.reason_first=true --set teacher.weights=ema"
)


def test_eval_on_a_divided_base_does_not_mind_a_teacher_that_reasons_first(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[bool, str]] = []

    @contextlib.contextmanager
    def loading(config: Config, *_: Any, devices: Any, **__: Any) -> Iterator[FakePolicy]:
        count(devices, config)
        loaded.append((config.teacher.reason_first, config.teacher.weights))
        yield FakePolicy()

    monkeypatch.setattr("opsd_cli.evaluation.session.loaded_policy", loading)
    code, _, err = opsd(f"eval --benchmark good.jsonl --limit 1 --out e {DIVIDED}")
    assert code == 0 and loaded == [(False, "ema")], err
    code, _, err = opsd(f"eval --benchmark good.jsonl --limit 1 --dry-run {DIVIDED}")
    assert "samples its analyses" not in err
    with pytest.raises(UsageError, match="samples its analyses"):  # as a training run would
        count(2, resolve(None, DIVIDED.replace("--devices 2 ", "").replace("--set ", "").split()))
