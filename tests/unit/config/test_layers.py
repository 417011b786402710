"""Several config files over one another, and mistakes with their files and lines, all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ConfigError

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def written(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return name

    return written


def told(error: ConfigError) -> list[str]:
    return [each.message for each in error.all()]


def test_config_files_are_layered_in_order(write: Write) -> None:
    first = write("first.yaml", "seed: 1\ntrain: {steps: 7, passes: 2}\n")
    second = write("second.yaml", "train: {steps: 8}\n")
    config = resolve([first, second])
    assert (config.seed, config.train.steps, config.train.passes) == (1, 8, 2)
    assert resolve([second, first]).train.steps == 7


def test_config_presets_are_layered_with_files(write: Write) -> None:
    file = write("mine.yaml", "train: {steps: 7}\n")
    assert resolve(["embedded-long", file]).train.steps == 7
    assert resolve([file, "embedded-long"]) == resolve("embedded-long")


def test_config_model_of_any_layer_decides_about_the_embedded_preset(write: Write) -> None:
    model, steps = write("model.yaml", "model: some/model\n"), write("s.yaml", "seed: 3\n")
    assert resolve([model, steps]).data.train is None
    assert resolve([steps]).data.train == "embedded"


def test_config_mistakes_are_all_told_with_file_and_line(write: Write) -> None:
    first = write("first.yaml", "seed: -1\ntrain:\n  steps: ten\n  stpes: 3\n")
    second = write("second.yaml", "# comment\noptimizer:\n  betas: [0.9,\n          1.0]\n")
    with pytest.raises(ConfigError) as caught:
        resolve([first, second], ["lr=1e-5", "words"], {"train": {"passes": 0}})
    assert [message.partition(",")[0] for message in told(caught.value)] == [
        "--set 'words' is not key=value",
        "first.yaml", "first.yaml", "first.yaml", "second.yaml",
        "train.passes: input should be greater than 0", "unknown config key 'lr'",
    ]  # fmt: skip
    assert told(caught.value)[1].startswith("first.yaml, line 1: seed: ")
    assert told(caught.value)[2].startswith("first.yaml, line 3: train.steps: ")
    assert told(caught.value)[3].startswith("first.yaml, line 4: unknown config key")
    assert told(caught.value)[4].startswith("second.yaml, line 4: optimizer.betas.1: ")
    assert caught.value.__notes__ == told(caught.value)[1:]


def test_config_mistake_of_an_overridden_key_is_none(write: Write) -> None:
    file = write("mine.yaml", "train: {steps: 0}\n")
    assert resolve(file, ["train.steps=3"]).train.steps == 3


def test_config_mistake_in_a_methods_section_has_its_own_line(write: Write) -> None:
    file = write("m.yaml", "train: {steps: 3}\nmethods:\n  grpo:\n    train:\n      steps: 0\n")
    with pytest.raises(ConfigError, match=r"m.yaml, line 5: train.steps"):
        resolve(file, [], {"method": "grpo"})


def test_config_preset_that_does_not_exist_has_its_line(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"p.yaml, line 2: there is no preset 'x'"):
        resolve(write("p.yaml", "seed: 1\npreset: x\n"))


def test_config_file_without_a_key_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"e.yaml holds no config key"):
        resolve(write("e.yaml", "# seed: 1\n"))


def test_config_rule_about_several_keys_waits_for_unreadable_files(write: Write) -> None:
    overlap = write("o.yaml", "rollouts: {overlap: true}\n")
    with pytest.raises(ConfigError) as caught:
        resolve(["nosuch.yaml", overlap])
    assert len(told(caught.value)) == 1 and "nosuch.yaml" in caught.value.message
