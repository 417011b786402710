"""Config mistakes in a terminal: each a line and a hint, all at once."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import Opsd


def test_config_mistakes_are_each_a_line_with_a_hint(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "k.yaml").write_text("seed: -1\ntrain: {stpes: 3}\n")
    code, out, err = opsd("train --config k.yaml --set lora.rank=0")
    lines = [line.partition(": ")[0] for line in err.splitlines()]
    assert code == 2 and out == "" and lines == ["error", "hint"] * 3


def test_config_mistakes_beyond_a_screen_are_counted(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "k.yaml").write_text("".join(f"key{n}: 1\n" for n in range(25)))
    err = opsd("train --config k.yaml")[2]
    assert err.count("error: k.yaml") == 20 and "error: and 5 more mistakes" in err


def test_config_flags_are_layered_in_order(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {steps: 7}\n")
    (tmp_path / "b.yaml").write_text("train: {passes: 3}\n")
    out = opsd("train --dry-run --show-config --config a.yaml --config b.yaml")[1]
    assert "  steps: 7\n" in out and "  passes: 3\n" in out
