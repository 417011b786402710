"""`opsd presets`: copying one, and finding config keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.config.explain import FOREIGN
from opsd_cli.config.json_schema import json_schema
from opsd_cli.config.schema import described_keys
from tests.support.cli import Opsd


def test_preset_is_copied_to_a_file_of_its_name(opsd: Opsd, tmp_path: Path) -> None:
    code, out, _ = opsd("presets copy embedded")
    assert code == 0 and "copied to embedded.yaml; use it with --config embedded.yaml" in out
    assert (tmp_path / "embedded.yaml").read_text() == opsd("presets show embedded")[1]


def test_presets_keys_shows_allowed_values_and_defaults(opsd: Opsd) -> None:
    out = opsd("presets keys")[1]
    assert 'teacher.weights = "initial"\n    initial, live, ema\n    ' in out
    assert "sampling.top_p = 0.95\n    number, > 0, ≤ 1\n    " in out
    assert 'backend = "auto"\n    auto, ' in out


@pytest.mark.parametrize("word", ["top_p", "TOP_P"])
def test_presets_keys_are_filtered_by_a_word_in_name_or_meaning(opsd: Opsd, word: str) -> None:
    found = json.loads(opsd(f"presets keys {word} --json")[1])
    assert {"sampling.top_p", "evaluation.top_p"} <= found.keys() < described_keys().keys()
    assert found["sampling.top_p"].keys() == {"default", "help", "type", "bounds"}


def test_presets_keys_finds_a_word_of_the_help_text(opsd: Opsd) -> None:
    found = json.loads(opsd("presets keys 'between validations' --json")[1])
    assert found.keys() == {"train.evaluate_every"}


def test_presets_keys_has_every_key_without_a_word(opsd: Opsd) -> None:
    assert json.loads(opsd("presets keys --json")[1]).keys() == described_keys().keys()


def test_config_keys_of_other_programs_are_translated_to_keys_that_exist() -> None:
    assert set(FOREIGN.values()) <= described_keys().keys()


def test_opsd_alone_prints_its_help_and_no_error(opsd: Opsd) -> None:
    code, out, err = opsd("")
    assert code == 2 and "Teach a model" in out and err == ""


def test_presets_schema_prints_the_json_schema(opsd: Opsd) -> None:
    assert json.loads(opsd("presets schema")[1]) == json_schema()


@pytest.mark.parametrize("command", ["presets", "data"])
def test_presets_and_data_list_by_habit(opsd: Opsd, command: str) -> None:
    code, out, err = opsd(f"{command} list")
    assert (code, out, err) == opsd(command) and code == 0 and out
    assert opsd(f"{command} list --json")[1] == opsd(f"{command} --json")[1]
