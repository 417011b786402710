"""The Mac kit's tiny form: every section measures, and its values are the true ones."""

from __future__ import annotations

from pathlib import Path

from benchmarks.mac.kit import KIT
from tests.support.backend_fixtures import require_backend
from tests.support.kit_runs import tiny_run

SECTIONS = [section.name for section in KIT.sections if section.name != "conformance"]


def test_mac_kit_measures_every_section_on_any_mlx(tmp_path: Path) -> None:
    require_backend("mlx")
    found = tiny_run(KIT, SECTIONS, tmp_path, MLX_DISABLE_COMPILE="1")
    sections = found["sections"]
    assert {name: section["state"] for name, section in sections.items()} == {
        name: "done" for name in SECTIONS
    }
    # Nothing is skipped where MLX works.
    assert not [row for section in sections.values() for row in section["rows"] if "state" in row]

    wide, narrow = sections["bfloat16"]["rows"]
    assert wide["rollout_gap_nats"] < 1e-3 and 0 < abs(narrow["loss"] - wide["loss"]) < 1e-3
    for row in sections["resume"]["rows"]:
        assert row["adapter"] == row["optimizer"] == "the same bits"
    (preset,) = sections["presets"]["rows"]
    assert 0.95 <= preset["planned_over_measured"] < 2
    assert preset["learning_gib"] > preset["weights_gib"] > 0
    steps = {row["form"]: row for row in sections["step"]["rows"]}
    assert steps["mlx_lm.lora, cross-entropy"]["over_mlx_lm"] == 1
    assert "OPSD, reverse KL" in steps
    assert {row["form"] for row in sections["rollouts"]["rows"]} == {
        "ours", "mlx_lm batch_generate",
    }  # fmt: skip
