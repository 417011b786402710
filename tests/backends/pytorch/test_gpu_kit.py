"""The GPU kit's tiny form on the CPU: every section measures, and its values are the true ones."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.gpu.kernel import KINDS
from benchmarks.gpu.kit import KIT
from tests.support.kit_runs import tiny_run

#: step_8b is step_1.7b again, and the suite inside the suite says nothing new.
SECTIONS = [s.name for s in KIT.sections if s.name not in ("step_8b", "conformance")]
needs_triton = importlib.util.find_spec("triton") is not None or bool(os.environ.get("CI"))


def test_gpu_kit_measures_every_section_without_a_gpu(tmp_path: Path) -> None:
    found = tiny_run(KIT, SECTIONS, tmp_path, CUDA_VISIBLE_DEVICES="")
    assert found["device"] == "the CPU, without a GPU"
    sections = found["sections"]
    assert list(sections) == SECTIONS
    without = [] if needs_triton else ["kernel"]
    assert {n: s["state"] for n, s in sections.items() if n not in without} == {
        name: "done" for name in SECTIONS if name not in without
    }

    if needs_triton:
        rows = {row["case"]: row for row in sections["kernel"]["rows"]}
        assert len(rows) == len(KINDS)
        assert all(0 < row["triton_gradient_gap"] < 1e-4 for row in rows.values())
        assert all(0 < row["triton_value_gap"] < 1e-4 for row in rows.values())
    for row in sections["resume"]["rows"]:
        assert row["adapter"] == row["optimizer"] == "the same bits"
    assert len(sections["resume"]["checks"]) == 6

    whole, phases, dense, _ = sections["step_1.7b"]["rows"]
    parts = ("teacher_s", "student_s", "loss_s", "backward_s", "update_s")
    assert all(phases[part] > 0 for part in parts)
    assert sum(phases[part] for part in parts) <= phases["step_s"]
    assert whole["useful_tflops"] > 0 and dense["step_s"] > 0
    assert whole["planned_gib"] > 0

    loss = {row["form"]: row for row in sections["loss"]["rows"]}
    assert loss["dense"]["loss"] == pytest.approx(loss["ours, plain"]["loss"], rel=1e-4)
    assert loss["ours, triton"]["state"] == "skipped: it needs a GPU"
    ours, theirs = sections["rollouts"]["rows"]
    assert ours["tokens_per_second"] > 0 and theirs["tokens_per_second"] > 0
    peers = sections["peers"]["rows"]
    assert peers[0]["step_s"] > 0
    if importlib.util.find_spec("trl") is None:
        assert {row["state"] for row in peers[1:]} == {"skipped: trl is not installed"}
