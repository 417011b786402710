"""vLLM servers by a config: their addresses, their GPUs, and what is wrong with the settings."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit


def addresses(url: str) -> tuple[str, ...]:
    """The addresses in `rollouts.vllm.url`, without a slash at the end."""
    return tuple(part.rstrip("/") for part in url.split(","))


def device_groups(devices: str | None, replicas: int) -> list[str | None]:
    """The GPUs of each server that is started, divided evenly and consecutively.

    Args:
        devices: with commas between them; None for those that the trainer sees.
        replicas: number of servers; divides that of the devices.
    """
    if devices is None:
        return [None] * replicas
    names = devices.split(",")
    each = len(names) // replicas
    return [",".join(names[n * each : (n + 1) * each]) for n in range(replicas)]


def wrong_servers(url: str | None, replicas: int, devices: str | None, memory: float) -> str | None:
    """What is wrong with the number of servers or their GPUs, and a hint; None if nothing is.

    Args:
        url: `rollouts.vllm.url`.
        replicas: servers to start.
        devices: their GPUs.
        memory: share of a GPU's memory for each.
    """
    if url is not None:
        for name, given in (("replicas", replicas != 1), ("devices", devices is not None)):
            if given:
                return (
                    f"rollouts.vllm.url and rollouts.vllm.{name} exclude each other: servers that "
                    f"run already have their GPUs\nleave out rollouts.vllm.{name}, or the url to "
                    "have servers started"
                )
        found = addresses(url)
        twice = next((each for each in found if found.count(each) > 1), None)
        if twice is not None:
            return f"rollouts.vllm.url names {twice} twice\nname each server once"
        return None
    if devices is None:
        if replicas > 1 and replicas * memory > 1 + 1e-9:
            return (
                f"{replicas} servers with {memory:g} of a GPU's memory each do not fit on the GPUs "
                "that the trainer sees\ngive them GPUs of their own (rollouts.vllm.devices), or "
                "lower rollouts.vllm.gpu_memory_utilization"
            )
        return None
    names = devices.split(",")
    if "" in names or len(set(names)) < len(names):
        return (
            f"rollouts.vllm.devices is {devices!r}, with a GPU named twice or left empty"
            "\nname each GPU once, as in 4,5,6,7"
        )
    if len(names) % replicas:
        return (
            f"rollouts.vllm.devices names {len(names)} GPUs, which {replicas} servers cannot share "
            "evenly\ngive a multiple of rollouts.vllm.replicas"
        )
    return None


def wrong_address(url: str | None) -> str | None:
    """What is wrong with the servers' addresses, and on a second line a hint; None if nothing is.

    An address with a user or password is refused without being shown: a run's config.yaml would
    keep it.
    """
    if url is None:
        return None
    found = map(_wrong_address, url.split(","))
    return next((wrong for wrong in found if wrong is not None), None)


def _wrong_address(url: str) -> str | None:
    hint = "\nwrite http://HOST:PORT, as in http://gpu2:8000"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is not a number, unbalanced brackets
        known = False
    if "@" in url:
        return (
            "rollouts.vllm.url holds a user or password, which the run's config.yaml would keep"
            "\nleave it out, and set the environment variable VLLM_API_KEY to the server's key"
        )
    if not known or not all(33 <= ord(letter) < 127 for letter in url):
        return f"rollouts.vllm.url is {url!r}, which is no server's address{hint}"
    if parts.query or parts.fragment:
        return f"rollouts.vllm.url is {url!r}, with more after the server's address{hint}"
    if parts.path.rstrip("/").endswith("/v1"):
        return f"rollouts.vllm.url is {url!r}, with a path that is added to it\nleave /v1 out"
    return None


def names_parallelism(argument: str) -> bool:
    """True for a command-line argument of vLLM that spreads one model over several GPUs."""
    name = argument.partition("=")[0].replace("_", "-")
    return name in ("-tp", "-pp") or name.startswith(("--tensor-parallel", "--pipeline-parallel"))


def wrong_arguments(arguments: Sequence[str]) -> str | None:
    """What is wrong with the arguments of a server that opsd starts, and a hint; None if nothing.

    Data parallelism is refused because a LoRA adapter is loaded into the replica that answers the
    request, and the other replicas would generate without it.
    """
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        name = name.replace("_", "-")
        value = value or "".join(arguments[place + 1 : place + 2])
        if name.startswith("--api-k"):
            return (
                "rollouts.vllm.arguments holds --api-key, which the run's config.yaml would keep"
                "\nleave it out: a server that is started gets a key of its own"
            )
        several = name.startswith(("--data-parallel", "-dp", "--api-server-c", "-asc"))
        if several and value != "1":
            return (
                f"rollouts.vllm.arguments holds {name}: an adapter that is loaded reaches only the "
                "replica that answers, and the others go on without it"
                "\nleave it out; --tensor-parallel-size spreads one server over several GPUs"
            )
    return None
