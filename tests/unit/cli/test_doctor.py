"""`opsd doctor`: its long lines on a terminal."""

from __future__ import annotations

import io
from functools import cached_property

import pytest
from rich.console import Console

from opsd_cli.cli import doctor
from opsd_cli.cli.console import Output
from opsd_cli.cli.terminal import PlainConsole


@pytest.mark.parametrize("width", [80, 120])
def test_doctor_breaks_its_lists_between_words(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()

    class Terminal(Output):
        @cached_property
        def results(self) -> Console:
            return PlainConsole(file=file, width=width, force_terminal=True, color_system=None)

    monkeypatch.setattr(doctor, "Output", Terminal)
    doctor.run(as_json=False)
    lines = file.getvalue().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("presets: "))
    presets = lines[first:]
    assert len(presets) > 1 and max(map(len, presets)) <= width
    assert all(line.rstrip().endswith(",") for line in presets[:-1])
