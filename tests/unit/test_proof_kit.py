"""The proof kits' machinery: how a section can end, what is kept of it, budgets, pages."""

from __future__ import annotations

import json
import time
import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.kit import KIT as GPU
from benchmarks.mac.kit import KIT as MAC
from benchmarks.proof import parent, saved
from benchmarks.proof.clock import Phases
from benchmarks.proof.flops import opsd_step
from benchmarks.proof.page import page
from opsd_cli.planning.model_shape import Shape
from tests.support.processes import gone
from tests.support.proof_kit import KIT


def run(out: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """A tiny run of the stand-in; its JSON."""
    assert parent.main(KIT, ["--tiny", "--out", str(out), *arguments]) == code
    found: dict[str, Any] = json.loads((out / "stand_in.json").read_text())
    return found


def test_kit_rows_that_cannot_be_measured_say_why_and_fail_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, "--only", "measures,lacks")
    section = found["sections"]["measures"]
    assert section["state"] == "done"
    assert section["rows"] == [
        {"form": "one", "time_ms": 1.25},
        {"form": "two", "state": "skipped: it has no GPU"},
        {"form": "three", "state": "skipped: surely_not_a_package is not installed"},
        {"form": "four", "state": "stopped: memory ran out"},
    ]
    # Of equal shares the first has half of the time.
    assert 0 < section["budget_s"] <= (60 * parent.MINUTES - parent.MARGIN) / 2
    lacks = found["sections"]["lacks"]
    assert lacks["state"] == "skipped: surely_not_a_package.part is not installed"
    assert found["versions"]["surely_not_a_package"] == "missing"
    assert found["device"] == "a stand-in"


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("disagrees", "done"),
        ("raises", "failed: ValueError: the first line"),
        ("dies", "failed: no reason given"),
    ],
)
def test_kit_fails_if_a_section_fails_or_a_check_does_not_hold(
    tmp_path: Path, name: str, state: str
) -> None:
    found = run(tmp_path, "--only", name, code=1)
    assert found["sections"][name]["state"] == state


def test_kit_stops_a_section_at_its_budget_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, rows = tmp_path / "pid", tmp_path / "sections" / "hangs.jsonl"
    monkeypatch.setenv("OPSD_TEST_GRANDCHILD", str(pid))
    # The time is over as soon as the section has written its row.
    now = types.SimpleNamespace(
        monotonic=lambda: 1e6 if rows.exists() and rows.read_text() else 0.0, sleep=time.sleep
    )
    monkeypatch.setattr(parent, "time", now)
    hangs = run(tmp_path, "--only", "hangs")["sections"]["hangs"]
    assert hangs["state"] == "stopped: its 508 s were over"
    assert hangs["rows"] == [{"form": "one"}]
    assert gone(int(pid.read_text()))


def test_kit_that_cannot_run_here_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parent.main(KIT, ["--out", str(tmp_path)]) == 3
    assert capsys.readouterr().err == "no such device here; --tiny runs anywhere\n"
    assert not list(tmp_path.iterdir())


def test_kit_refuses_a_section_that_it_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parent.main(KIT, ["--tiny", "--out", str(tmp_path), "--only", "nothing"]) == 2
    assert "no section is called nothing\nchoose from measures" in capsys.readouterr().err


@pytest.mark.parametrize("kit", [GPU, MAC], ids=lambda kit: kit.name)
def test_kit_budgets_are_under_nine_minutes_and_every_section_exists(kit: Any) -> None:
    assert sum(section.seconds for section in kit.sections) <= 60 * parent.MINUTES < 540
    root = Path(parent.ROOT)
    for section in kit.sections:
        module, _, function = section.work.partition(":")
        source = (root / f"{module.replace('.', '/')}.py").read_text()
        assert f"def {function}(record: Recorder)" in source


def test_kit_page_shows_units_states_and_checks_that_do_not_hold(tmp_path: Path) -> None:
    run(tmp_path, "--only", "measures,disagrees", code=1)
    text = (tmp_path / "stand_in.md").read_text()
    assert "| form | time, ms | state |" in text
    assert "| one | 1.25 |  |" in text
    assert "| two |  | skipped: it has no GPU |" in text
    assert "- **does not hold**: one is two (gap 1)" in text
    assert "- a note" in text
    assert "Tiny shapes" in text


def marked(name: str, body: str) -> str:
    return f"<!-- {name}: python -m benchmarks.tables -->\n{body}\n<!-- /{name} -->"


def test_kit_results_are_put_between_their_marks_and_tiny_ones_are_refused(
    tmp_path: Path,
) -> None:
    text = f"before\n{marked('gpu', 'earlier')}\n{marked('mac', 'earlier')}\nafter\n"
    assert "Nothing has been measured on a CUDA GPU yet" in saved.with_kits(text, tmp_path)
    results = run(tmp_path / "run", "--only", "measures")
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({**results, "kit": "gpu"}))
    with pytest.raises(SystemExit, match="tiny run"):
        saved.save_kit(kept, tmp_path)
    kept.write_text(json.dumps({**results, "kit": "gpu", "tiny": False}))
    saved.save_kit(kept, tmp_path)
    found = saved.with_kits(text, tmp_path)
    assert page({**results, "tiny": False}, level=3).strip() in found
    assert "earlier" not in found and found.startswith("before\n") and found.endswith("after\n")


def test_phases_count_inner_calls_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 10.0, 20.0, 25.0])
    monkeypatch.setattr("benchmarks.proof.clock.time.perf_counter", lambda: next(clock))
    phases = Phases(lambda: None)
    inner = phases.wrapped("inner", lambda: None, not_in="alone")
    phases.wrapped("outer", lambda: inner())()  # 0 to 10, of which 1 to 3 inside
    phases.wrapped("alone", lambda: inner())()  # 20 to 25, none of it the inner's
    assert phases.seconds == {"inner": 2.0, "outer": 8.0, "alone": 5.0}


def test_flops_of_a_step_are_those_counted_by_hand() -> None:
    shape = Shape(1, 2, 3, 1, 1, 2, 10, True)
    # Queries, keys, values, output: 4 × 2 × 2; gate, up, down: 3 × 2 × 3: 34 weights.
    student, teacher, tokens = 5, 7, 3
    blocks, attention = 2 * 34, 2 * 1 * 2
    head = 2 * 2 * 10 * tokens
    read = [blocks * n + attention * n * n + head for n in (student, teacher)]
    back = blocks * student + 2 * attention * student**2 + head
    assert opsd_step(shape, [student], [teacher], tokens) == sum(read) + back
