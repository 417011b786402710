"""The JSON schema of config files: every preset and run is valid, every key described."""

from __future__ import annotations

from typing import Any

import pytest

from opsd_cli.config.json_schema import json_schema
from opsd_cli.config.presets import preset_names, preset_path
from opsd_cli.config.resolve import to_yaml
from opsd_cli.config.schema import Config, described_keys
from opsd_cli.config.yaml_files import read_tree, read_yaml
from tests.support.json_schemas import mistakes


def found(value: Any) -> list[str]:
    schema = json_schema()
    return list(mistakes(value, schema, schema))


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_valid_by_the_json_schema(name: str) -> None:
    assert found(read_tree(preset_path(name))) == []


def test_complete_config_is_valid_by_the_json_schema() -> None:
    assert found(read_yaml(to_yaml(Config()), "config")) == []


@pytest.mark.parametrize(
    "text",
    [
        "sede: 1", "seed: -1", "seed: ten", "train: {steps: 0}", "train: {stpes: 3}",
        "teacher: {weights: old}", "preset: nosuch", "methods: {gpro: {seed: 1}}",
        "methods: {grpo: {train: {steps: 0}}}", "optimizer: {betas: [0.9, 1.0]}",
        "optimizer: {betas: [0.9]}", "data: {limit: 0}", "log: [nosuch]",
    ],
)  # fmt: skip
def test_config_mistake_is_refused_by_the_json_schema(text: str) -> None:
    assert found(read_yaml(text, "config"))


def test_json_schema_describes_every_key() -> None:
    described = {}

    def walk(node: Any, prefix: str) -> None:
        for name, inner in node["properties"].items():
            described[f"{prefix}{name}"] = inner.get("description", "")
            if prefix + name != "methods" and "properties" in inner:
                walk(inner, f"{prefix}{name}.")

    walk(json_schema(), "")
    assert described_keys().keys() <= described.keys()
    assert [key for key, text in described.items() if not text] == []
