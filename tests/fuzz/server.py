"""Misbehaving vLLM servers, and how a run against each of them ends.

    python -m tests.fuzz.server [--seed 0] [--rounds 300]

Every behaviour of `tests.support.hostile_behaviours` is met by the first steps of a run: rollouts,
scores, gradient, adapter upload, rollouts again; half of the time with prefetched rollouts. The run
must end in one clear line that names the server, or continue with the same tokens and
log-probabilities to the last bit; and it must not send more requests than its retries allow. Then,
`--rounds` times, a random behaviour begins at a random request, or an answer has one of its values
replaced at random.

Waits between two requests take no real time, and no outcome depends on the speed of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from backends.interface import PolicyGradientBatch, Rollout, RolloutRequest, Sampling
from backends.vllm import client, replica
from backends.vllm.policy import VllmPolicy
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import OpsdError
from tests.support.fake_clock import VirtualClock
from tests.support.fake_vllm import FakeVllm, completion
from tests.support.fakes import FakePolicy
from tests.support.hostile_behaviours import BEHAVIOURS
from tests.support.hostile_server import COMPLETIONS, LOAD, Behaviour, good, send

SAMPLING = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=6)
REQUESTS = [RolloutRequest(f"p{n}", n % 2, (5, 6, 7 + n), 10_000 + n) for n in range(9)]
BATCH = 4
#: Requests of a run without a fault, and those that the worst fault may add: each concurrent
#: rollout uses all its tries, after the adapter was reloaded as often as is allowed.
MOST_REQUESTS = 60 + BATCH * client.TRIES + 4 * (len(REQUESTS) + 2)
#: Values to put into an answer: refused there, or without effect on the rollouts.
JUNK: list[Any] = [
    None, True, "x", "", [], {}, [[]], float("nan"), float("inf"), 1e9, -1e9, 10**30, -(10**30),
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        kind: survived, refused, different, or unexpected.
        line: the error, where there is one.
        hint: its hint.
        requests: number of requests that the server received.
        waits: seconds before each retry.
        told: warnings to the user.
    """

    kind: str
    line: str
    hint: str
    requests: int
    waits: tuple[float, ...]
    told: tuple[str, ...]


#: The client's deadline for each path at which a server may hang.
DEADLINES = {
    "/health": "_QUICK_SECONDS", "/metrics": "_ASIDE_SECONDS", "/v1/unload": "_ASIDE_SECONDS",
    LOAD: "_ADAPTER_SECONDS", "/sleep": "_ADAPTER_SECONDS",
}  # fmt: skip


@contextlib.contextmanager
def impatient(behaviour: Behaviour) -> Iterator[None]:
    """Shorten the deadline that this behaviour exceeds, and those that affect no outcome."""
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(replica, "PARTING_SECONDS", 0.5))
        if behaviour.hangs and behaviour.at in DEADLINES:
            patches.enter_context(mock.patch.object(client, DEADLINES[behaviour.at], 0.5))
        yield


def met(
    behaviour: Behaviour, prefetch: bool = False, after: int = 0, batch: int = BATCH
) -> Outcome:
    """Run against a server that shows this behaviour after so many requests to its path."""
    server = FakeVllm()
    server.released = threading.Event()  # type: ignore[attr-defined]
    seen = Counter[str]()
    lock = threading.Lock()

    def hostile(handler: Any, path: str, body: Any) -> bool:
        if not path.startswith(behaviour.at):
            return False
        with lock:
            seen["all"] += 1
            if seen["all"] <= after or seen["shown"] == behaviour.times:
                return False
            seen["shown"] += 1
        behaviour.act(handler, body)
        return True

    server.hostile = hostile
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    clock = VirtualClock()
    told: list[str] = []
    hangs = behaviour.hangs and behaviour.at == COMPLETIONS
    config = resolve(
        None,
        [
            "rollouts.engine=vllm", f"rollouts.batch_size={batch}",
            f"rollouts.vllm.url={server.url}",
            f"rollouts.vllm.request_seconds={0.5 if hangs else 60}", *behaviour.settings,
        ],
    )  # fmt: skip
    kind, line, hint = "survived", "", ""
    try:
        with tempfile.TemporaryDirectory() as folder, impatient(behaviour):
            policy = None
            try:
                policy = VllmPolicy(config, FakePolicy(), Path(folder), clock, told.append)
                if not steps(policy, prefetch):
                    kind = "different"
            except OpsdError as error:
                clear = error.exit_code in (1, 2) and server.url in error.message
                clear = clear and f"{error.message}{error.hint}".isprintable() and error.hint != ""
                kind, line, hint = "refused" if clear else "unclear", error.message, error.hint
            except Exception as error:
                kind, line = "unexpected", f"{type(error).__name__}: {error}"
            finally:
                if policy is not None:
                    policy.close()
    finally:
        server.released.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
    return Outcome(kind, line, hint, len(server.asked), tuple(clock.waits), tuple(told))


def steps(policy: VllmPolicy, prefetch: bool) -> bool:
    """Two steps of a run; True if every rollout was as expected."""
    for _ in range(2):
        if prefetch:
            drawn = policy.prefetch(REQUESTS, SAMPLING).result(60)
        else:
            drawn = list(policy.generate(REQUESTS, SAMPLING))
        if not right(drawn):
            return False
        policy.score([(r.request.prompt_ids, r.completion_ids) for r in drawn], sampling=SAMPLING)
        policy.accumulate(PolicyGradientBatch(()))
        policy.apply(0.1)
    return right(list(policy.generate(REQUESTS, SAMPLING)))


def right(drawn: list[Rollout]) -> bool:
    """True if these are the requested rollouts, to the last bit."""
    found = {r.request: (r.completion_ids, r.log_probs.tolist(), r.finish_reason) for r in drawn}
    wanted = {}
    for request in REQUESTS:
        ids = tuple(completion(request.seed, 6))
        wanted[request] = (ids, [-0.5] * len(ids), "stop" if ids[-1] == 1 else "length")
    return len(drawn) == len(REQUESTS) and found == wanted


def replaced(seed: int) -> Behaviour:
    """A behaviour that replaces one random value of each answer."""
    names = random.Random(seed)
    junk = names.choice(JUNK)
    place = names.random()

    def act(handler: Any, body: Any) -> None:
        answer = good(body)
        places = list(_places(answer))
        holder, key = places[int(place * len(places))]
        holder[key] = junk
        send(handler, 200, json.dumps(answer).encode())

    return Behaviour(f"a value replaced by {str(junk)[:20]!r} (seed {seed})", act, "")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def at_random(seed: int) -> tuple[Behaviour, Outcome]:
    """One round of the long form."""
    drawn = random.Random(seed)
    behaviour = replaced(seed) if drawn.random() < 0.5 else drawn.choice(BEHAVIOURS)
    after = drawn.randrange(30) if behaviour.at == COMPLETIONS else drawn.randrange(3)
    return behaviour, met(behaviour, drawn.random() < 0.5, after, drawn.choice([1, 4, 9]))


def table(outcomes: list[Outcome]) -> str:
    """Table of the outcomes."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    rows = [
        ("tried", len(outcomes)),
        ("survived, with the same bits", kinds.pop("survived", 0)),
        ("refused in one clear line", kinds.pop("refused", 0)),
        *((kind, kinds[kind]) for kind in ("different", "unclear", "unexpected")),
        ("most requests", max((outcome.requests for outcome in outcomes), default=0)),
    ]
    return "\n".join(f"| {name} | {number} |" for name, number in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    outcomes = []
    for number, behaviour in enumerate(BEHAVIOURS):
        outcome = met(behaviour, prefetch=number % 2 == 1)
        outcomes.append(outcome)
        print(f"{behaviour.name}: {outcome.kind}: {outcome.line} ({outcome.requests} requests)")
    for number in range(given.rounds):
        behaviour, outcome = at_random(given.seed * 1_000_000 + number)
        outcomes.append(outcome)
        if outcome.kind not in ("survived", "refused"):
            print(f"{behaviour.name}: {outcome}")
    print(table(outcomes))


if __name__ == "__main__":
    main()
