"""A run with `teacher.model`: who samples in its preflight, what it records, and resuming it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.interface import Rollout
from opsd_cli.config.resolve import resolve
from opsd_cli.embedded import MODEL_DIR
from opsd_cli.errors import ModelError, RunError
from opsd_cli.prompts.other_model import OtherModel
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import session
from tests.support.fakes import FakePolicy
from tests.support.small_tokenizers import CharacterTokenizer
from tests.support.training_runs import begin


class Roles(FakePolicy):
    """Another model teaches: it is right whatever its prompt holds. Notes who samples."""

    def __init__(self) -> None:
        super().__init__(skill=0.3)
        self.roles: list[tuple[str, str]] = []

    def generate(
        self, requests: Any, sampling: Any, role: Any = "student", teacher: Any = "initial"
    ) -> Iterator[Rollout]:
        self.roles.append((role, teacher))
        own, self.skill = self.skill, 1.0 if role == "teacher" else self.skill
        yield from super().generate(requests, sampling)
        self.skill = own


class Notes(Listener):
    """Collects the notes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_preflight_samples_the_teachers_completions_by_its_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = OtherModel(CharacterTokenizer())
    monkeypatch.setattr("opsd_cli.prompts.builder.other_model", lambda config: other)
    policy = Roles()
    settings = ("teacher.model=org/teacher", "teacher.reference=none", "train.steps=1")
    notes = Notes()
    begin(tmp_path / "run", *settings, policy=policy, listener=notes)
    assert any("by org/teacher, which sees the question alone" in note for note in notes.said)
    assert policy.roles.count(("teacher", "model")) == 1
    assert {role for role, _ in policy.roles} == {"student", "teacher"}
    record = json.loads((tmp_path / "run/preflight.json").read_text())
    assert record["teacher"]["value"] == 1.0 and record["student"]["value"] < 0.7
    rollout = json.loads((tmp_path / "run/rollouts.jsonl").read_text().splitlines()[0])
    assert "begins]" not in rollout["teacher_prompt"]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is chosen without asking the machine, which would import it."""
    choice = backends.Choice("cpu", "for a test")
    monkeypatch.setattr(session, "choose_backend", lambda config, messages: (config, choice))


@pytest.mark.usefixtures("chosen")
def test_run_records_its_teacher_model_and_resume_checks_it(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(MODEL_DIR, folder)
    config = resolve(None, (f"teacher.model={folder}", "backend=cpu"))
    with session.begin(config, tmp_path / "run", Listener()) as opened:
        assert opened.run.config.teacher.model == str(folder)
    recorded = json.loads((tmp_path / "run/environment.json").read_text())["teacher_model"]
    assert recorded["model"] == str(folder) and len(recorded["digest"]) == 16
    with session.resume(tmp_path / "run", Listener()) as opened:
        assert opened.splits is not None
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.5}))
    with (
        pytest.raises(RunError, match="has other weights"),
        session.resume(tmp_path / "run", Listener()),
    ):
        pass


@pytest.mark.usefixtures("chosen")
def test_run_with_a_missing_teacher_model_leaves_no_directory(tmp_path: Path) -> None:
    config = resolve(None, (f"teacher.model={tmp_path / 'none'}", "backend=cpu"))
    with (
        pytest.raises(ModelError, match="no model folder"),
        session.begin(config, tmp_path / "run", Listener()),
    ):
        pass
    assert not (tmp_path / "run").exists()
