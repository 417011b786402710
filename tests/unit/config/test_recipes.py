"""docs/recipes.md agrees with the presets, and marks each value that differs from the paper."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.presets import preset_names, preset_path
from opsd_cli.config.resolve import resolve, validate
from opsd_cli.config.schema import Config
from opsd_cli.config.yaml_files import read_tree, read_yaml
from opsd_cli.planning.token_plan import token_plan

DOCUMENT = Path(__file__).parents[3] / "docs" / "recipes.md"
SIZES = ("1.7b", "4b", "8b")
GROUPS = {
    "opsd": "opsd-qwen3-",
    "nothink": "opsd-nothink-qwen3-",
    "v1": "opsd-v1-qwen3-",
    "grpo": "grpo-qwen3-",
    "sft": "sft-qwen3-",
    "rlsd": "opsd-qwen3-",
}
#: Keys that are no part of a recipe: the model, the method, and what fits a machine.
NOT_A_RECIPE = {"model", "method", "rollouts.batch_size"}
EQUAL = "–"


def table(heading: str) -> list[dict[str, str]]:
    """The rows of the document's first table whose header begins with `heading`."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    names = cells(lines[start])
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def presets(cell: str) -> list[tuple[str, str | None]]:
    """(preset, method) pairs that a row is about; method None is the preset's own."""
    found: list[tuple[str, str | None]] = []
    for name in cell.split(", "):
        if name.startswith("eval-"):
            found.append((name, None))
            continue
        group, _, size = name.partition(" ")
        for one in GROUPS if group == "all" else [group]:
            method = "hybrid" if one == "rlsd" else None
            found += [(GROUPS[one] + each, method) for each in ([size] if size else SIZES)]
    return found


@cache
def resolved(name: str, method: str | None) -> Config:
    return resolve(name, [], {"method": method})


def at(config: Config, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def literal(cell: str) -> str | None:
    """The text of a cell that is one piece of code in backticks; None for any other cell."""
    found = re.fullmatch(r"`([^`]*)`", cell)
    return found[1] if found else None


ROWS = table("preset")
KEYED = [row for row in ROWS if literal(row["setting"]) is not None]


@pytest.mark.parametrize("row", KEYED, ids=[f"{r['preset']}: {r['setting']}" for r in KEYED])
def test_recipes_page_has_the_presets_values(row: dict[str, str]) -> None:
    text = literal(row["ours"])
    assert text is not None, "ours is a value"
    ours, key = read_yaml(text, "ours"), literal(row["setting"]) or ""
    for name, method in presets(row["preset"]):
        assert at(resolved(name, method), key) == ours, name


@pytest.mark.parametrize("row", ROWS, ids=[f"{r['preset']}: {r['setting']}" for r in ROWS])
def test_recipes_page_marks_every_departure_from_the_published_value(row: dict[str, str]) -> None:
    published, ours = (literal(row[column]) for column in ("published", "ours"))
    if published is None or ours is None:
        assert row["departure"] != EQUAL, "a row in words is a departure, or has no place here"
        return
    equal = read_yaml(published, "published") == read_yaml(ours, "ours")
    assert equal == (row["departure"] == EQUAL)
    assert row["source"]


def test_recipes_page_has_a_row_for_every_value_that_a_preset_sets() -> None:
    spoken = {
        (name, method, literal(row["setting"]))
        for row in KEYED
        for name, method in presets(row["preset"])
    }
    missing = []
    for name, method in [*presets("all"), *presets("eval-paper, eval-paper-nothink, eval-qwen3")]:
        config = resolved(name, method)
        for key in keys_set(name, config.method):
            told = key in NOT_A_RECIPE or (name, method, key) in spoken
            if matters(key, config) and not told:
                missing.append((name, method, key))
    assert not missing


def keys_set(name: str, method: str) -> set[str]:
    """Dotted keys that a preset, and those that it builds on, set for a method."""
    tree = read_tree(preset_path(name))
    below = tree.pop("preset", None)
    chosen = tree.pop("methods", {}).get(method, {})
    found = set(leaves(tree)) | set(leaves(chosen))
    return found | keys_set(below, method) if below else found


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict) and key != "chat_arguments":
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append(prefix + key)
    return found


def matters(key: str, config: Config) -> bool:
    """True if a key has an effect on the config's method."""
    section, method = key.partition(".")[0], config.method
    if key.startswith(("prompts.teacher", "teacher")):
        return method in ("opsd", "hybrid") and not (
            method == "hybrid"
            and key in ("teacher.reason_first", "teacher.ema_decay", "teacher.analysis_tokens")
        )
    if key in ("divergence.beta", "divergence.clip_at"):
        jsd = config.divergence.kind == "jsd"
        clips = config.divergence.clip != "none"
        return method == "opsd" and (jsd if key.endswith("beta") else clips)
    if key == "train.reduction":
        return method == "opsd"
    return {
        "divergence": method == "opsd",
        "sampling": method != "sft",
        "rollouts": method != "sft",
        "grpo": method in ("grpo", "hybrid"),
        "hybrid": method == "hybrid",
        "sft": method == "sft",
    }.get(section, True)


def test_recipes_page_has_the_planned_token_counts() -> None:
    rows = [row for row in table("preset | authors: rollouts")]
    assert {row["preset"] for row in rows} == {
        f"{GROUPS[group]}{size}" for group in GROUPS if group != "rlsd" for size in SIZES
    }
    for row in rows:
        most = token_plan(resolve(row["preset"], ["preflight.enabled=false"]), None).most
        assert number(row["ours: rollouts"]) == most.rollouts
        assert number(row["ours: generated tokens"]) == most.generated
        assert number(row["scored by the teacher"]) == most.teacher_scored
        assert number(row["trained"]) == most.trained
        # The authors' columns are products of their settings, and equal ours.
        assert number(row["authors: rollouts"].rpartition("= ")[2]) == most.rollouts
        assert number(row["authors: generated tokens"]) == most.generated
    grpo = next(row for row in rows if row["preset"] == "grpo-qwen3-1.7b")
    assert grpo["authors: rollouts"].endswith("8,000")
    assert grpo["authors: generated tokens"] == "128,000,000"


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_recipe_steps_and_schedules_follow_from_the_number_of_problems() -> None:
    problems = 29_434
    held_out = -(-problems // 100)  # 1%, rounded up, as scikit-learn's and datasets' splits do
    batches = -(-(problems - held_out) // 16)
    assert resolve("sft-qwen3-4b").train.steps == 4 * -(-batches // 4) == 1824
    assert resolve("opsd-qwen3-4b").optimizer.schedule_steps == 30 * -(-problems // 32)
    learnt = problems - -(-problems * 7 // 1000)
    assert resolve("grpo-qwen3-4b").optimizer.schedule_steps == 2 * (learnt // 4)
    rlsd = resolve("opsd-qwen3-4b", [], {"method": "hybrid"})
    assert rlsd.optimizer.schedule_steps == problems // 2


@pytest.mark.parametrize(
    "name", [name for name in preset_names() if not name.startswith("embedded")]
)
def test_preset_names_the_source_of_its_values(name: str) -> None:
    """The source is in the preset's header, or in that of the preset that it names there."""
    text = preset_path(name).read_text(encoding="utf-8")
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    sized = re.search(r"(opsd-[\w.-]+|mac-16gb)", header)
    assert "Source: " in header or sized is not None
    if "Source: " in header:
        assert "eparture" in header or "differs" in header
    if sized is not None:
        assert sized[1].rstrip(".") in preset_names()


COMPACTION = table("compaction: setting")


@pytest.mark.parametrize("size", SIZES)
def test_compaction_preset_is_the_recipe_with_the_values_of_its_table(size: str) -> None:
    name = f"opsd-compaction-qwen3-{size}"
    told = {
        key: read_yaml(literal(row["ours"]) or "", "ours")
        for row in COMPACTION
        if (key := literal(row["compaction: setting"]))
    }
    flat, recipe = (
        {key: at(config, key) for key in leaves(config.model_dump(mode="json"))}
        for config in (resolve(name), resolve(f"opsd-qwen3-{size}"))
    )
    assert {key: value for key, value in flat.items() if recipe[key] != value} == told
    for method in ("grpo", "sft", "hybrid"):
        assert resolve(name, [], {"method": method}) == resolve(
            f"opsd-qwen3-{size}", [], {"method": method}
        )


@pytest.mark.parametrize("row", COMPACTION, ids=[row["compaction: setting"] for row in COMPACTION])
def test_compaction_table_marks_every_departure(row: dict[str, str]) -> None:
    assert (row["published"] == row["ours"]) == (row["departure"] == EQUAL)
    assert row["source"]


def test_mac_preset_differs_from_its_recipe_only_in_what_fits_the_machine() -> None:
    fits = {
        "model", "backend", "rollouts.batch_size", "prompts.teacher.max_tokens",
        "train.micro_batch_tokens", "train.checkpoint_every", "sampling.max_new_tokens",
        "sft.max_tokens",
    }  # fmt: skip
    for name in (each for each in preset_names() if each.startswith("mac-")):
        recipe = read_tree(preset_path(name))["preset"]
        for method in ("opsd", "grpo", "sft", "hybrid"):
            mine, theirs = (
                resolve(each, [], {"method": method}).model_dump(mode="json")
                for each in (name, recipe)
            )
            flat_mine, flat_theirs = (
                {key: at(validate(tree), key) for key in leaves(tree)} for tree in (mine, theirs)
            )
            changed = {key for key, value in flat_mine.items() if flat_theirs[key] != value}
            assert changed <= fits
            if method != "grpo":
                assert "sampling.max_new_tokens" not in changed
