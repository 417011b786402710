"""Servers that have ended, hang, or lack a feature."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import TrainingError, UsageError
from tests.support.vllm_runs import REQUESTS, SAMPLING, Served, sampled


def test_a_server_at_an_address_that_has_ended_is_an_error(served: Served) -> None:
    server, policy = served()
    server.shutdown()
    server.server_close()
    with pytest.raises(TrainingError, match="does not answer") as failed:
        sampled(policy)
    assert "--resume" in failed.value.hint


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"version": "0.9.1"}, "vLLM 0.9.1 at .* is too old"),
        ({"no_ids": True}, "gives no token ids"),
        ({"refuses_adapters": True}, "does not take the adapter: No adapter found"),
    ],
)
def test_a_missing_feature_of_the_server_is_named(
    served: Served, faults: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _, policy = served(**faults)
        policy.apply(0.1)
        sampled(policy)


def test_close_does_not_wait_for_a_hanging_server(served: Served) -> None:
    server, policy = served("rollouts.vllm.request_seconds=3600")
    policy.apply(0.1)
    sampled(policy)
    server.answers.clear()
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    while len(server.calls) < 2 + len(REQUESTS):
        time.sleep(0.01)
    released = threading.Event()
    server.hostile = lambda handler, path, body: released.wait(60)  # nor for the last request
    policy.close()
    with pytest.raises(TrainingError, match="was ended"):
        prefetched.result(timeout=30)
    left = [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name]
    for _ in range(1000):
        if not left:
            break
        time.sleep(0.01)
        left = [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name]
    released.set()
    server.answers.set()
    assert not left  # an interpreter waits for these before it exits


@pytest.mark.parametrize("elsewhere", [False, True])
def test_ctrl_c_ends_the_process_while_the_server_hangs(tmp_path: Path, elsewhere: bool) -> None:
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
    script = (
        "import signal\nimport threading\nfrom pathlib import Path\n"
        # Whoever starts the tests in the background of a shell has them ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from backends.vllm.policy import VllmPolicy\nfrom opsd_cli.config.resolve import resolve\n"
        "from tests.support.fake_vllm import FakeVllm\n"
        "from tests.support.vllm_runs import REQUESTS, SAMPLING\n"
        "from tests.support.fakes import FakePolicy\n"
        "server = FakeVllm()\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "config = resolve(None, [f'rollouts.vllm.url={server.url}'])\n"
        f"policy = VllmPolicy(config, FakePolicy(), Path({str(tmp_path)!r}))\n"
        "never = threading.Event()\n"
        "def hostile(handler, path, body):\n"
        "    print('asked', flush=True)\n"
        "    return never.wait()\n"
        "server.hostile = hostile\n"
        # A thread that waits for a lock does not notice a signal that another thread was given.
        f"{blocked if elsewhere else ''}"
        "try:\n"
        "    list(policy.generate(REQUESTS[:1], SAMPLING))\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(130)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "asked\n"
    run.send_signal(signal.SIGINT)
    assert run.wait(120) == 130  # and not after the half hour that a request may take
