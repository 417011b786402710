"""`opsd train` with two vLLM servers, from start to end: the run of one server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from tests.support.backend_fixtures import require_backend
from tests.support.fake_vllm import FakeVllm
from tests.support.processes import PATIENCE_SECONDS
from tests.support.ranks import done, left, start
from tests.support.vllm_runs import versions_asked

TRAIN = (
    "train", "--quiet", "--backend", "cpu", "--set=rollouts.engine=vllm", "--set=train.steps=2",
    "--set=train.questions_per_step=6", "--set=train.checkpoint_every=1",
    "--set=train.evaluate_every=2", "--set=data.test_problems=4", "--set=rollouts.batch_size=4",
    "--set=data.validation_problems=4", "--set=preflight.enabled=false",
    "--set=sampling.max_new_tokens=8",
)  # fmt: skip
Start = Callable[..., FakeVllm]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts servers of the embedded model, with faults as keyword arguments."""
    require_backend("cpu")
    settings = json.loads((Path(resolve().model_path) / "config.json").read_text())
    monkeypatch.setattr("tests.support.fake_vllm.STOP", settings["eos_token_id"])
    servers: list[FakeVllm] = []

    def begin(**faults: Any) -> FakeVllm:
        servers.append(FakeVllm(**faults))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def urls(*servers: FakeVllm) -> str:
    return f"--set=rollouts.vllm.url={','.join(server.url for server in servers)}"


def without_addresses(run: Path) -> dict[str, Any]:
    """What a run leaves, but for the line of its config that names the servers."""
    found = left(run)
    lines = found.pop("config.yaml").decode().splitlines()
    found["config.yaml"] = [line for line in lines if not line.strip().startswith("url:")]
    assert len(found["config.yaml"]) == len(lines) - 1
    return found


def test_two_vllm_servers_leave_the_run_of_one_also_where_one_dies(
    served: Start, tmp_path: Path
) -> None:
    done(tmp_path, *TRAIN, urls(served()), "--out", "one")
    alone = without_addresses(tmp_path / "one")

    immortal, mortal = served(), served(dies_after=6)
    process = start(tmp_path, *TRAIN, urls(immortal, mortal), "--out", "lost")
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, error
    assert f"the vLLM server at {mortal.url} does not answer" in error
    assert "the other one of 2 go on" in error
    assert without_addresses(tmp_path / "lost") == alone
    assert set(versions_asked(immortal)) > {"base"} and versions_asked(mortal)
