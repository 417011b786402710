"""The settings that differ from the defaults, and where each is from."""

from __future__ import annotations

from pathlib import Path

from opsd_cli.config.origins import Setting, changed_settings
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config


def test_changed_settings_name_preset_file_assignment_and_flag(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: small-cpu\nsampling:\n  max_new_tokens: 77\n  top_p: 0.5\n")
    given = ([str(file)], ["lora.rank=3", "sampling.top_p=0.25"], {"train": {"steps": 9}})
    found = {each.key: each for each in changed_settings(resolve(*given), *given)}
    assert found["sampling.max_new_tokens"] == Setting(
        "sampling.max_new_tokens", 77, f"{file}, line 3"
    )
    assert found["sampling.top_p"] == Setting("sampling.top_p", 0.25, "--set")
    assert found["lora.rank"].origin == "--set"
    assert found["train.steps"] == Setting("train.steps", 9, "a flag")
    assert found["optimizer.learning_rate"].origin == "preset small-cpu"
    assert "train" not in found and "seed" not in found


def test_changed_settings_rebuild_the_config() -> None:
    config = resolve("opsd-qwen3-1.7b", ["data.train=x.jsonl"])
    settings = changed_settings(config, ["opsd-qwen3-1.7b"], ["data.train=x.jsonl"])
    tree: dict[str, object] = {}
    for each in settings:
        inner = tree
        *sections, name = each.key.split(".")
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[name] = each.value
    assert Config.model_validate(tree) == config
    assert all(each.origin for each in settings)
