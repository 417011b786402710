"""`opsd init` on a set whose answers nothing checks: columns that nothing reads are not asked."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.cli import Opsd


def test_init_asks_for_no_answer_where_nothing_is_graded(opsd: Opsd, tmp_path: Path) -> None:
    rows = [{"question": f"Ask {n} people to come.", "guide": "Be polite."} for n in range(40)]
    (tmp_path / "style.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = "--set grading.grader=none --set teacher.reference=guide"
    code, out, err = opsd(f"init mine.yaml --model embedded --data style.jsonl {flags} --json")
    assert code == 0, err
    assert json.loads(out)["columns"]["used"] == {"question": "question"}
