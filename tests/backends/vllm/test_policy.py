"""Rollouts by vLLM, against a server that speaks its API and can be told to fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.interface import RolloutRequest, Sampling
from backends.vllm.client import Client
from backends.vllm.policy import VllmPolicy
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import BackendMissing, OpsdError, TrainingError, UsageError
from tests.support.fake_clock import VirtualClock
from tests.support.fake_vllm import FakeVllm, completion, interpreter
from tests.support.fakes import FakePolicy
from tests.support.processes import PATIENCE_SECONDS, alive, gone

SAMPLING = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=6)
REQUESTS = [RolloutRequest(f"p{n}", n % 2, (5, 6, 7 + n), 10_000 + n) for n in range(9)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., tuple[FakeVllm, VllmPolicy]]]:
    """A server in this process and a policy that uses it by URL."""
    servers: list[FakeVllm] = []

    def start(*assignments: str, **faults: Any) -> tuple[FakeVllm, VllmPolicy]:
        server = FakeVllm(**faults)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = resolved(f"rollouts.vllm.url={server.url}", *assignments)
        return server, VllmPolicy(config, FakePolicy(), tmp_path / "vllm", VirtualClock())

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def resolved(*assignments: str) -> Config:
    return resolve(None, ["rollouts.engine=vllm", "rollouts.batch_size=4", *assignments])


def drawn(policy: VllmPolicy, **options: Any) -> dict[str, tuple[int, ...]]:
    rollouts = list(policy.generate(REQUESTS, SAMPLING, **options))
    assert len(rollouts) == len(REQUESTS)
    for rollout in rollouts:
        assert len(rollout.log_probs) == len(rollout.completion_ids)
        stopped = rollout.completion_ids[-1] == 1
        assert rollout.finish_reason == ("stop" if stopped else "length")
    return {r.request.problem_id: r.completion_ids for r in rollouts}


EXPECTED = {r.problem_id: tuple(completion(r.seed, 6)) for r in REQUESTS}


def models_asked(server: FakeVllm) -> set[str]:
    """Without what tells a run's adapters from another's."""
    asked = (body["model"] for path, body in server.calls if path == "/v1/completions")
    return {short(name) for name in asked}


def short(name: str) -> str:
    return name.rpartition("-")[2]


def test_every_request_is_asked_for_as_it_is(served: Any) -> None:
    server, policy = served()
    assert drawn(policy) == EXPECTED
    asked = [body for path, body in server.calls if path == "/v1/completions"]
    assert sorted(tuple(body["prompt"]) for body in asked) == sorted(r.prompt_ids for r in REQUESTS)
    assert {body["seed"] for body in asked} == {r.seed for r in REQUESTS}
    for body in asked:
        assert (body["temperature"], body["top_p"], body["top_k"]) == (1.1, 0.95, 20)
        assert body["stop_token_ids"] == [1] and body["return_token_ids"]
    assert "vLLM 0.32.0" in policy.description


def test_each_step_s_weights_are_loaded_under_a_name_of_their_own(served: Any) -> None:
    server, policy = served()
    drawn(policy)
    assert models_asked(server) == {"base"}  # before the first step there is no adapter
    for step in (1, 2):
        policy.apply(0.1)
        server.calls.clear()
        drawn(policy)
        drawn(policy)
        assert models_asked(server) == {f"v{step:06d}"}
        loads = [body for path, body in server.calls if path == "/v1/load_lora_adapter"]
        assert len(loads) == 1  # once a version, however many draws
    assert [short(name) for name in server.adapters] == ["v000002"]
    policy.close()
    assert not server.adapters


def test_a_teacher_draws_with_the_weights_it_has(served: Any) -> None:
    server, policy = served()
    policy.apply(0.1)
    drawn(policy, role="teacher", teacher="initial")
    assert models_asked(server) == {"base"}
    server.calls.clear()
    drawn(policy, role="teacher", teacher="live")
    assert models_asked(server) == {"v000001"}
    server.calls.clear()
    list(policy.generate(REQUESTS, SAMPLING, role="teacher", teacher="ema"))
    assert not server.calls  # no file holds those: the backend's own engine draws


def test_a_server_restarted_behind_our_back_gets_the_adapter_again(served: Any) -> None:
    server, policy = served()
    policy.apply(0.1)
    drawn(policy)
    server.adapters.clear()
    assert drawn(policy) == EXPECTED
    assert [short(name) for name in server.adapters] == ["v000001"]


def test_another_run_s_adapters_are_never_taken_for_this_one_s(served: Any, tmp_path: Path) -> None:
    server, policy = served()
    policy.apply(0.1)
    drawn(policy)  # and then it is killed: its adapter stays, on disk and in the server
    before = set(server.adapters)
    again = VllmPolicy(resolved(f"rollouts.vllm.url={server.url}"), FakePolicy(), tmp_path / "vllm")
    again.restore(next((tmp_path / "vllm").glob("opsd-*")))
    drawn(again)
    assert len(set(server.adapters) - before) == 1
    assert {short(name) for name in server.adapters} == {"v000001"}


def test_it_sleeps_while_the_trainer_learns(served: Any) -> None:
    from backends.interface import PolicyGradientBatch

    server, policy = served("rollouts.vllm.sleep=true")
    drawn(policy)
    policy.accumulate(PolicyGradientBatch(()))
    policy.accumulate(PolicyGradientBatch(()))
    assert server.asleep
    assert [path for path, _ in server.calls].count("/sleep?level=1") == 1
    policy.apply(0.1)
    assert drawn(policy) == EXPECTED and not server.asleep


def test_it_sleeps_while_the_trainer_scores_measures_and_draws(served: Any) -> None:
    from backends.interface import PolicyGradientBatch

    passes: dict[str, Callable[[VllmPolicy], Any]] = {
        "score": lambda policy: policy.score([((5, 6), (7,))], sampling=SAMPLING),
        "measure": lambda policy: policy.measure(PolicyGradientBatch(())),
        "draw": lambda policy: list(policy.generate(REQUESTS, SAMPLING, "teacher", "ema")),
    }
    for name, own_pass in passes.items():
        server, policy = served("rollouts.vllm.sleep=true")
        own_pass(policy)  # also before anything was drawn
        assert server.asleep, name
        assert drawn(policy) == EXPECTED and not server.asleep
        own_pass(policy)
        assert server.asleep, name
    server, policy = served()
    for own_pass in passes.values():
        own_pass(policy)
    assert not server.asleep  # it was not asked for


def test_a_server_left_asleep_by_a_run_that_was_killed_is_woken(served: Any) -> None:
    server, policy = served("rollouts.vllm.sleep=true")
    server.asleep = True
    assert drawn(policy) == EXPECTED


def test_one_that_cannot_sleep_is_told_how_it_could(served: Any) -> None:
    _, policy = served("rollouts.vllm.sleep=true", cannot_sleep=True)
    with pytest.raises(UsageError, match="does not go to sleep") as failed:
        policy.score([((5, 6), (7,))])
    assert "--enable-sleep-mode" in failed.value.hint
    assert "VLLM_SERVER_DEV_MODE=1" in failed.value.hint


def versions_asked(server: FakeVllm) -> list[str]:
    return [short(body["model"]) for path, body in server.calls if path == "/v1/completions"]


def test_what_is_drawn_ahead_has_the_weights_of_when_it_was_asked_for(served: Any) -> None:
    server, policy = served()
    policy.apply(0.1)
    server.answers.clear()
    drawing = policy.prefetch(REQUESTS, SAMPLING)
    policy.apply(0.1)
    policy.apply(0.1)
    assert not drawing.done()
    # What is drawn otherwise waits for it, so that the server never needs two adapters.
    threading.Timer(0.3, server.answers.set).start()
    assert drawn(policy) == EXPECTED
    assert {r.request.problem_id: r.completion_ids for r in drawing.result()} == EXPECTED
    asked = versions_asked(server)
    assert set(asked[: len(REQUESTS)]) == {"v000001"}
    assert set(asked[len(REQUESTS) :]) == {"v000003"}
    assert [short(name) for name in server.adapters] == ["v000003"]


def test_a_restart_gives_what_is_drawn_ahead_its_own_weights_again(served: Any) -> None:
    server, policy = served()
    policy.apply(0.1)
    drawn(policy)
    server.calls.clear()
    server.adapters.clear()
    server.answers.clear()
    drawing = policy.prefetch(REQUESTS, SAMPLING)
    policy.apply(0.1)
    server.answers.set()
    assert {r.request.problem_id: r.completion_ids for r in drawing.result()} == EXPECTED
    assert set(versions_asked(server)) == {"v000001"}


def test_what_goes_wrong_ahead_is_told_when_it_is_asked_for(served: Any) -> None:
    _, policy = served(refuses_adapters=True)
    policy.apply(0.1)
    drawing = policy.prefetch(REQUESTS, SAMPLING)
    with pytest.raises(UsageError, match="does not take the adapter"):
        drawing.result()


def test_a_run_that_ends_waits_for_nothing_that_is_still_drawn(served: Any) -> None:
    server, policy = served("rollouts.batch_size=3")
    server.answers.clear()
    drawing = policy.prefetch(REQUESTS, SAMPLING)
    while len(server.calls) < 3:
        time.sleep(0.01)
    policy.close()
    with pytest.raises(TrainingError, match="was ended"):
        drawing.result(timeout=PATIENCE_SECONDS)
    assert len(versions_asked(server)) == 3  # of nine: the rest was never asked for
    server.answers.set()


def test_a_given_server_that_is_gone_is_said_so(served: Any) -> None:
    server, policy = served()
    server.shutdown()
    server.server_close()
    with pytest.raises(TrainingError, match="does not answer") as failed:
        drawn(policy)
    assert "--resume" in failed.value.hint


def test_errors_ahead_reach_the_user_of_a_run_in_the_same_line(served: Any, tmp_path: Path) -> None:
    from opsd_cli.training.run_directory import Run
    from opsd_cli.training.trainer import train
    from tests.support.small_problems import SPLITS

    server, policy = served()
    spoilt = threading.Event()

    def hostile(handler: Any, path: str, body: Any) -> bool:
        # The rollouts of step 2, which are drawn while step 1 is learnt.
        if not (path == "/v1/completions" and spoilt.is_set()):
            return False
        handler._send(200, {"choices": []})
        return True

    server.hostile = hostile
    ahead = policy.prefetch

    def prefetch(*given: Any) -> Any:
        spoilt.set()
        return ahead(*given)

    policy.prefetch = prefetch  # type: ignore[method-assign]
    config = resolved(
        f"rollouts.vllm.url={server.url}", "rollouts.overlap=true", "preflight.enabled=false",
        "train.steps=3", "train.questions_per_step=5", "train.evaluate_every=3",
    )  # fmt: skip
    with (
        Run.create(tmp_path / "run", config, {"packages": {}}) as held,
        pytest.raises(TrainingError, match=f"{server.url} gave an answer .* it has 0 completions"),
    ):
        train(policy, SPLITS, held)


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_from_the_environment_is_sent_with_every_request_and_shown_nowhere(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opsd_cli.config.resolve import to_yaml

    monkeypatch.setenv("VLLM_API_KEY", "a-secret-key\n")
    server, policy = served(key="a-secret-key")
    policy.apply(0.1)
    assert drawn(policy) == EXPECTED
    assert {given for _, _, given in server.asked} == {"Bearer a-secret-key"}
    assert "a-secret-key" not in to_yaml(policy._config)
    assert "a-secret-key" not in repr(policy._client._transport) + policy.description


@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_error_shows_a_key_that_the_server_repeats(
    served: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "a-secret-key")
    server, policy = served(key="a-secret-key")

    def hostile(handler: Any, path: str, body: Any) -> bool:
        handler._send(status, {"error": {"message": f"got {handler.headers['Authorization']}"}})
        return True

    server.hostile = hostile
    with pytest.raises(OpsdError) as failed:
        drawn(policy)
    assert "got Bearer ***" in failed.value.message
    assert "a-secret-key" not in failed.value.message + failed.value.hint


def test_a_server_that_asks_for_a_key_says_where_to_put_it(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for key, message in ((None, "asks for an API key"), ("another", "refuses the API key")):
        if key:
            monkeypatch.setenv("VLLM_API_KEY", key)
        with pytest.raises(UsageError, match=message) as failed:
            served(key="a-secret-key")
        assert "VLLM_API_KEY" in failed.value.hint


def test_a_key_that_no_header_carries_is_refused_unseen(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "two\nlines")
    with pytest.raises(UsageError, match="VLLM_API_KEY holds characters") as failed:
        served()
    assert "two" not in failed.value.message + failed.value.hint


# -- ends ------------------------------------------------------------------------------------------


def test_a_run_that_ends_does_not_wait_for_a_server_that_hangs(served: Any) -> None:
    server, policy = served("rollouts.vllm.request_seconds=3600")
    policy.apply(0.1)
    drawn(policy)
    server.answers.clear()
    drawing = policy.prefetch(REQUESTS, SAMPLING)
    while len(server.calls) < 2 + len(REQUESTS):
        time.sleep(0.01)
    released = threading.Event()
    server.hostile = lambda handler, path, body: released.wait(60)  # nor for its farewell
    policy.close()
    with pytest.raises(TrainingError, match="was ended"):
        drawing.result(timeout=30)
    left = [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name]
    for _ in range(1000):
        if not left:
            break
        time.sleep(0.01)
        left = [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name]
    released.set()
    server.answers.set()
    assert not left  # an interpreter waits for these before it exits


def test_ctrl_c_while_a_server_hangs_ends_the_process(tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    script = (
        "import threading\nfrom pathlib import Path\n"
        "from backends.vllm.policy import VllmPolicy\nfrom opsd_cli.config.resolve import resolve\n"
        "from tests.support.fake_vllm import FakeVllm\n"
        "from tests.backends.vllm.test_policy import REQUESTS, SAMPLING\n"
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
        "try:\n"
        "    list(policy.generate(REQUESTS[:1], SAMPLING))\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(130)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "asked\n"
    run.send_signal(signal.SIGINT)
    assert run.wait(120) == 130  # and not after the half hour that a request may take


def test_an_adapter_that_cannot_be_written_says_where(
    served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, policy = served()
    policy.apply(0.1)

    def full(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(policy._inner, "save_adapter", full)
        for draw in (drawn, lambda policy: policy.prefetch(REQUESTS, SAMPLING)):
            with pytest.raises(TrainingError, match=r"opsd-.*: No space left on device") as failed:
                draw(policy)
            assert "rollouts.vllm.adapters" in failed.value.hint
    assert drawn(policy) == EXPECTED  # the half of it that was there has not been handed over


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"version": "0.9.1"}, "vLLM 0.9.1 at .* is too old"),
        ({"no_ids": True}, "gives no token ids"),
        ({"refuses_adapters": True}, "does not take the adapter: No adapter found"),
    ],
)
def test_what_a_server_lacks_is_named(served: Any, faults: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _, policy = served(**faults)
        policy.apply(0.1)
        drawn(policy)


# -- a server of our own -------------------------------------------------------------------------


def own(tmp_path: Path, *assignments: str, **faults: Any) -> VllmPolicy:
    python = interpreter(tmp_path, **faults)
    config = resolved(f"rollouts.vllm.python={python}", *assignments)
    return VllmPolicy(config, FakePolicy(), tmp_path / "vllm")


def test_a_server_is_started_with_what_the_run_needs_and_ends_with_it(tmp_path: Path) -> None:
    policy = own(
        tmp_path, "lora.rank=12", 'rollouts.vllm.arguments=["--enforce-eager"]',
        "rollouts.vllm.devices=2,3",
    )  # fmt: skip
    assert drawn(policy) == EXPECTED
    command = json.loads((tmp_path / "command.json").read_text())
    assert command[command.index("--max-lora-rank") + 1] == "16"
    assert "--enable-lora" in command and command[-1] == "--enforce-eager"
    assert command[command.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert (tmp_path / "devices").read_text() == "2,3"
    # Its key is on no command line, which every user of the machine can read.
    key = (tmp_path / "key").read_text()
    assert len(key) >= 32 and not any(key in argument for argument in command)
    assert key not in (tmp_path / "vllm/server.log").read_text()
    process = int((tmp_path / "pid").read_text())
    assert alive(process)
    policy.close()
    assert not alive(process)


def test_every_server_that_is_started_has_a_key_of_its_own_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "of-another-server")
    keys = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        policy = own(tmp_path / name)
        try:
            assert drawn(policy) == EXPECTED
            keys.append((tmp_path / name / "key").read_text())
            stranger = Client(policy._client.url, 10.0)
            with pytest.raises(UsageError, match="asks for an API key"):
                stranger.models()
        finally:
            policy.close()
    assert len({*keys, "of-another-server"}) == 3


def test_a_server_of_ours_that_serves_another_model_or_version_does_not_stay(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="is too old"):
        own(tmp_path, version="0.9.2rc1")
    assert not alive(int((tmp_path / "pid").read_text()))


def test_an_interpreter_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_bytes(b"\0\0not a program")
    python.chmod(0o755)
    with pytest.raises(UsageError, match=f"{python} cannot be run"):
        VllmPolicy(resolved(f"rollouts.vllm.python={python}"), FakePolicy(), tmp_path / "vllm")


def test_a_server_that_dies_loses_nothing_of_the_step(tmp_path: Path) -> None:
    policy = own(tmp_path, dies_after=12, once=True)
    policy.apply(0.1)
    try:
        assert drawn(policy) == EXPECTED
        first = (tmp_path / "pid").read_text()
        assert drawn(policy) == EXPECTED  # dies in the middle of this
        assert (tmp_path / "pid").read_text() != first
    finally:
        policy.close()


def test_nor_of_what_is_drawn_ahead(tmp_path: Path) -> None:
    policy = own(tmp_path, dies_after=3, once=True)
    policy.apply(0.1)
    try:
        first = (tmp_path / "pid").read_text()
        drawing = policy.prefetch(REQUESTS, SAMPLING)
        policy.apply(0.1)
        assert {r.request.problem_id: r.completion_ids for r in drawing.result()} == EXPECTED
        second = (tmp_path / "pid").read_text()
        assert second != first
        for thread in threading.enumerate():
            if thread.name == "rollouts ahead":  # which drew, and started the server
                thread.join()
        assert alive(int(second)) and drawn(policy) == EXPECTED
        assert (tmp_path / "pid").read_text() == second
    finally:
        policy.close()


def test_a_server_that_was_ended_is_not_started_for_what_is_still_drawn(tmp_path: Path) -> None:
    policy = own(tmp_path)
    process = (tmp_path / "pid").read_text()
    policy.close()
    with pytest.raises(TrainingError, match="was ended"):
        policy.prefetch(REQUESTS, SAMPLING).result()
    assert (tmp_path / "pid").read_text() == process and not alive(int(process))


def test_one_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    policy = own(tmp_path, "rollouts.vllm.restarts=2", dies_after=2)
    try:
        with pytest.raises(TrainingError, match="has died 3 times"):
            drawn(policy)
    finally:
        policy.close()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "memory ran out"),
        ("ValueError: unknown architecture", "ended while it started: ValueError: unknown arch"),
    ],
)
def test_one_that_cannot_start_says_why(tmp_path: Path, said: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as failed:
        own(tmp_path, at_start=said)
    assert "server.log" in failed.value.hint or "gpu_memory" in failed.value.hint


def test_what_cannot_be_served_is_refused_before_anything_starts(tmp_path: Path) -> None:
    def refused(*assignments: str) -> OpsdError:
        with pytest.raises(OpsdError) as error:
            VllmPolicy(resolved(*assignments), FakePolicy(), tmp_path / "vllm")
        return error.value

    assert "DoRA" in refused("lora.dora=true").message
    assert "rank 1000" in refused("lora.rank=1000").message
    assert "no interpreter" in refused("rollouts.vllm.python=nosuch").message
    missing = refused()
    assert isinstance(missing, BackendMissing) and "vLLM is not installed" in missing.message
    assert not (tmp_path / "vllm").exists()


def test_a_server_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    import subprocess
    import sys

    python = interpreter(tmp_path)
    script = (
        "from pathlib import Path\n"
        "from backends.vllm.policy import VllmPolicy\nfrom opsd_cli.config.resolve import resolve\n"
        "from tests.support.fakes import FakePolicy\n"
        f"config = resolve(None, ['rollouts.vllm.python={python}'])\n"
        f"VllmPolicy(config, FakePolicy(), Path({str(tmp_path / 'vllm')!r}))\n"
        "print('up', flush=True)\ninput()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "up\n"
        process = int((tmp_path / "pid").read_text())
        assert alive(process)
        run.kill()
    assert gone(process)
