"""Shared by the tests of vLLM: requests, expected rollouts, policies with a fake server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backends.interface import PLAIN, RolloutRequest, Sampling, TeacherWeights
from backends.vllm.policy import VllmPolicy
from backends.vllm.transport import RequestClock
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.sources import Splits
from tests.support.fake_vllm import FakeVllm, base_score, completion, interpreter
from tests.support.fakes import FakePolicy
from tests.support.processes import PATIENCE_SECONDS

#: Starts a fake server, with faults by name, and a policy for it.
Served = Callable[..., tuple[FakeVllm, VllmPolicy]]
#: Starts fake servers, one for each mapping of faults; gives them, a policy, and its warnings.
Several = Callable[..., tuple[list[FakeVllm], VllmPolicy, list[str]]]
SAMPLING = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=6)
REQUESTS = [RolloutRequest(f"p{n}", n % 2, (5, 6, 7 + n), 10_000 + n) for n in range(9)]
EXPECTED = {r.problem_id: tuple(completion(r.seed, 6)) for r in REQUESTS}


class ScoringPolicy(FakePolicy):
    """Scores as the fake server does: the weights change every log-probability by their skill."""

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        shift = self.skill - 0.5 if role == "student" else 0.0
        return [
            np.asarray(
                [base_score(len(prompt) + n) + shift for n in range(len(completion))], np.float32
            )
            for prompt, completion in sequences
        ]


class InstantClock(RequestClock):
    """Waiting between two requests takes no time."""

    def wait(self, seconds: float, ended: threading.Event) -> None:
        return


def resolved(*assignments: str) -> Config:
    """A config whose rollouts vLLM samples, four at once."""
    return resolve(None, ["rollouts.engine=vllm", "rollouts.batch_size=4", *assignments])


def own_server(folder: Path, *assignments: str, **faults: Any) -> VllmPolicy:
    """A policy that starts a fake server of its own."""
    python = interpreter(folder, **faults)
    config = resolved(f"rollouts.vllm.python={python}", *assignments)
    return VllmPolicy(config, FakePolicy(), folder / "vllm")


def sums() -> Splits:
    """Problems that `FakePolicy` can solve."""

    def problems(name: str, numbers: range) -> ProblemSet:
        made = tuple(
            Problem(f"{name}-{n}", f"{n} + 1", f"{n} + 1 = {n + 1}", str(n + 1), name)
            for n in numbers
        )
        return ProblemSet(name, made, LoadReport(rows=len(made), used=len(made)))

    return Splits(
        problems("train", range(40)),
        problems("validation", range(40, 60)),
        problems("test", range(60, 90)),
    )


def sampled(policy: VllmPolicy, **options: Any) -> dict[str, tuple[int, ...]]:
    """The completions of REQUESTS by problem, each checked for consistency."""
    rollouts = list(policy.generate(REQUESTS, SAMPLING, **options))
    assert len(rollouts) == len(REQUESTS)
    for rollout in rollouts:
        assert len(rollout.log_probs) == len(rollout.completion_ids)
        stopped = rollout.completion_ids[-1] == 1
        assert rollout.finish_reason == ("stop" if stopped else "length")
    return {r.request.problem_id: r.completion_ids for r in rollouts}


def versions_asked(server: FakeVllm) -> list[str]:
    """The models of the completion requests in order, adapters by their version alone."""
    return [
        short(body["model"])
        for path, body in server.calls
        if path == "/v1/completions"
        and body  # without a body: cancelled before it was sent
        and "prompt_logprobs" not in body
    ]


def models_asked(server: FakeVllm) -> set[str]:
    """The same without order and repetitions."""
    return set(versions_asked(server))


def short(name: str) -> str:
    """An adapter's version, without the part of its name that differs from run to run."""
    return name.rpartition("-")[2]


def end(server: FakeVllm) -> None:
    """End a server: nothing listens at its port any more."""
    server.shutdown()
    server.server_close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
