"""Validation completions for a comparison's page, with the divergence of every token.

A separate `opsd sample` process generates those of each method, so that one model at a time is in
memory and none stays there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_cli.comparison.curves import Curve
from opsd_cli.comparison.supervisor import ending
from opsd_cli.config.schema import Config
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.json_files import read_object
from opsd_cli.processes.child_processes import OPSD, package_environment, tied
from opsd_cli.prompts.references import OF_ONE_ROLLOUT
from opsd_cli.tracking.listener import Messages

SAMPLES = "samples.json"
#: Validation problems whose completions the page shows, for each method.
SAMPLED_PROBLEMS = 3


def page_samples(
    groups: Mapping[str, Sequence[Curve]], directory: Path, messages: Messages
) -> dict[str, list[dict[str, Any]]]:
    """A few completions of each method's first run, as `opsd sample --json` gives them.

    They are kept in `samples.json` of the comparison's directory. A method whose samples cannot be
    sampled is left out with a warning, and tried again next time.
    """
    path = directory / SAMPLES
    if path.is_file():
        return stored_samples(directory)
    drawn: dict[str, list[dict[str, Any]]] = {}
    with messages.working("drawing samples for the page"):
        for label, curves in groups.items():
            command = sampling_command(curves[0].directory, curves[0].config)
            answer = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                **tied(package_environment()),
            )
            if answer.returncode:
                # Prompts and warnings precede the error, which a killed process has not.
                errors = [line for line in answer.stderr.splitlines() if line.startswith("error")]
                said = (errors or [ending(answer.returncode)])[0]
                messages.warn(f"no samples of {label} for the page: {said}")
            else:
                drawn[label] = _with_prompts(json.loads(answer.stdout))
    if len(drawn) == len(groups):  # otherwise retry next time
        write_atomic(path, json.dumps(drawn, ensure_ascii=False) + "\n")
    return drawn


def sampling_command(run: Path, config: Config) -> list[str]:
    """The command that samples a run's completions.

    Without divergences where the teacher's reference exists only while a step learns.
    """
    divergence = () if config.teacher.reference in OF_ONE_ROLLOUT else ("--divergence",)
    return [
        *OPSD, "sample", "--json", "--quiet", *divergence, "--show-prompts",
        "--adapter", str(run), "--limit", str(SAMPLED_PROBLEMS),
    ]  # fmt: skip


def stored_samples(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The samples that a comparison's directory holds; none where it has no such file."""
    return read_object(directory / SAMPLES) or {}


def _with_prompts(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The completions of `opsd sample --json`, each with the text of its prompts by role."""
    roles = ("student", "teacher")
    prompts = {
        entry["problem_id"]: {role: entry[role]["text"] for role in roles if role in entry}
        for entry in answer.get("prompts", ())
    }
    return [
        entry | {"prompts": prompts.get(entry["problem_id"], {})} for entry in answer["completions"]
    ]
