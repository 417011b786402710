"""The other ranks of a run: started here, or met where a launcher has started them.

`--devices N` starts them on this machine, each as `python -m backends.parallel.worker`, and not
through torchrun: rank 0 stays the process that the user called, with its terminal, its Ctrl-C and
its exit code, and one line says what went wrong. Under torchrun, `srun` or an MPI launcher every
process runs the same command; all but rank 0 become workers (`opsd_cli.devices.launched`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from backends.interface import GradientExchange, Policy
from backends.parallel.connections import accept, connect, listen
from backends.parallel.control import Channel, Workers
from backends.parallel.heartbeat import SILENCE
from backends.parallel.messages import Value
from backends.parallel.policy import ParallelPolicy, units_of
from backends.parallel.sharding import is_sharded, require_shardable
from backends.parallel.share import files_of, joined
from backends.shared import placement
from opsd_cli.config.schema import Config
from opsd_cli.lazy import load
from opsd_cli.processes.child_processes import package_environment, tied

#: Where rank 0 listens, "host:port", and the key to be let in, in hex: variables of its children.
ADDRESS, KEY = "OPSD_CONTROL", "OPSD_CONTROL_KEY"
_LOOPBACK = "127.0.0.1"
_WORKER = (sys.executable, "-P", "-m", "backends.parallel.worker")
#: Launcher -> how its processes meet, "module:class"; the others have torch.distributed's store.
_MEETINGS = {placement.MLX_LAUNCH: "backends.mlx.meeting:Meeting"}
_STORE = "backends.pytorch.meeting:Meeting"
#: Seconds that a worker gets to end by itself when it is dismissed.
_PATIENCE = 10.0
#: True once the processes that a launcher started have met.
_met = False


@contextlib.contextmanager
def opened(devices: int, silence: float = SILENCE) -> Iterator[Workers | None]:
    """The other ranks, until the block ends; None for a process alone.

    Args:
        devices: ranks to have on this machine; 1 with a launcher, which has started its own.
        silence: seconds without an answer after which a rank is given up.

    Raises:
        BackendMissing: a rank cannot be started or met.
    """
    where = placement.recognised()
    if where.size > 1:
        with _met_by_launcher(where, silence) as workers:
            yield workers
    elif devices > 1:
        placement.lead(devices)
        try:
            with _started(devices, silence) as workers:
                yield workers
        finally:
            placement.lead(1)
    else:
        yield None


@contextlib.contextmanager
def loaded_on_all(
    config: Config, trainable: bool, workers: Workers | None, load_here: Callable[[], Policy]
) -> Iterator[Policy]:
    """A model on every rank, until the block ends.

    Args:
        config: the run, with its backend chosen.
        workers: the other ranks; None loads it here alone. For training, and where the base is
            sharded, the ranks meet for their collectives before they load.
        load_here: loads it on this rank.

    Raises: as `ParallelPolicy`, `require_shardable` and `load_here`.
    """
    alone = workers is None and not (trainable and config.train.reduce == "exact")
    if alone:
        yield load_here()
        return
    size = 1 if workers is None else len(workers.ranks) + 1
    units_of(config, size)
    require_shardable(config, size)
    sharded = is_sharded(config, size)
    meets = trainable or sharded
    with contextlib.ExitStack() as stack:

        def load(broadcast: Callable[[Any], Any], host: str) -> _Loaded:
            exchange = None
            if meets:
                exchange = joined(config, 0, size, host, broadcast)
                stack.callback(exchange.close)
            return load_here(), exchange

        if workers is None:
            policy, exchange = load(lambda value: value, "")
        else:
            workers.lockstep = sharded
            policy, exchange = _loaded_with(workers, config, trainable, meets, load)
        yield ParallelPolicy(config, policy, workers, exchange)


_Loaded = tuple[Policy, GradientExchange | None]


def _loaded_with(
    workers: Workers,
    config: Config,
    trainable: bool,
    meets: bool,
    load: Callable[[Callable[[Any], Any], str], _Loaded],
) -> _Loaded:
    """What `load` gives on rank 0, while the workers load too."""
    size = len(workers.ranks) + 1
    adapter = None if config.adapter is None else files_of(Path(config.adapter).expanduser())

    def arguments(rank: int) -> tuple[Any, ...]:
        return config, trainable, adapter, (rank, size, workers.host) if meets else None

    def broadcast(value: Any) -> Any:
        workers.send(Value(value))
        return value

    loaded, _ = workers.call(
        "load", arguments, lambda: load(broadcast, workers.host), lambda rank, news: None
    )
    return loaded


# -- ranks that opsd starts --------------------------------------------------------------------


@contextlib.contextmanager
def _started(size: int, silence: float) -> Iterator[Workers]:
    key = secrets.token_bytes(32)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listen(_LOOPBACK))
        address = f"{_LOOPBACK}:{server.getsockname()[1]}"
        processes: dict[int, subprocess.Popen[bytes]] = {}
        outputs: dict[int, IO[bytes]] = {}
        stack.callback(_end, processes)
        for rank in range(1, size):
            outputs[rank] = stack.enter_context(tempfile.TemporaryFile())
            environment = package_environment() | {
                "OPSD_RANK": str(rank), "OPSD_RANKS": str(size), ADDRESS: address, KEY: key.hex(),
            }  # fmt: skip
            processes[rank] = subprocess.Popen(
                _WORKER, stdin=subprocess.DEVNULL, stdout=outputs[rank], stderr=outputs[rank],
                # Ctrl-C is for this process alone.
                start_new_session=True, **tied(environment),
            )  # fmt: skip

        def explain(rank: int) -> str:
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[rank].wait(2.0)
            return _ending(processes[rank].poll(), outputs[rank])

        def ended() -> str | None:
            gone = next((r for r, p in processes.items() if p.poll() is not None), None)
            return None if gone is None else f"rank {gone}: {explain(gone)}"

        connections, hellos = accept(server, size, key, ended)
        names = {r: f"rank {r} of {size} (process {h.process})" for r, h in hellos.items()}
        workers = Workers(connections, names, _LOOPBACK, explain, silence)

        def close() -> None:
            workers.close()
            for rank in workers.silent:  # a suspended process does not read its dismissal
                processes[rank].kill()

        stack.callback(close)
        yield workers


def _ending(code: int | None, output: IO[bytes]) -> str:
    """How a worker ended, in words: by which signal, or with its last line."""
    if code is None:
        return ""
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}, its last line: {lines[-1].strip()}" if lines else how


def _end(processes: dict[int, subprocess.Popen[bytes]]) -> None:
    """Wait for dismissed workers, and kill those that do not end."""
    for process in processes.values():
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- ranks that a launcher starts --------------------------------------------------------------


@contextlib.contextmanager
def _met_by_launcher(where: placement.Placement, silence: float) -> Iterator[Workers]:
    global _met
    _met = True
    key = secrets.token_bytes(32)
    meeting = _meeting(where)
    host = meeting.host
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listen(""))  # on every address: which one leads here differs
        meeting.publish(f"{host}:{server.getsockname()[1]} {key.hex()}")
        connections, hellos = accept(server, where.size, key)
        names = {
            rank: f"rank {rank} of {where.size} ({hello.host}, process {hello.process})"
            for rank, hello in hellos.items()
        }
        workers = Workers(connections, names, host, silence=silence)
        stack.callback(workers.close)
        yield workers


class Meeting(Protocol):
    """How the processes of a launcher find rank 0."""

    @property
    def host(self) -> str:
        """The address at which every process reaches rank 0."""

    def publish(self, text: str) -> None:
        """Tell the others; only rank 0 does, once."""

    def published(self) -> str:
        """What rank 0 publishes, once it has."""


def _meeting(where: placement.Placement) -> Meeting:
    found: Meeting = load(_MEETINGS.get(where.launcher, _STORE))(where)
    return found


def join_as_worker() -> Channel | None:
    """The connection to rank 0; None if it turned out to need no workers.

    Raises:
        BackendMissing: rank 0 cannot be reached.
    """
    where = placement.recognised()
    if ADDRESS in os.environ:
        told = f"{os.environ[ADDRESS]} {os.environ[KEY]}"
    else:
        told = _meeting(where).published()
    if not told:
        return None
    address, key = told.split()
    host, _, port = address.rpartition(":")
    return Channel(connect(host, int(port), bytes.fromhex(key), where.rank))


def dismiss_unmet() -> None:
    """Let the processes of a launcher go, where rank 0 ends without having needed them.

    Raises:
        BackendMissing, TrainingError: they cannot be reached.
    """
    where = placement.recognised()
    if where.size > 1 and where.rank == 0 and not _met:
        _meeting(where).publish("")
