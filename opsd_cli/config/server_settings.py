"""Validation of a vLLM server's settings: its address and its command-line arguments."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit


def wrong_address(url: str | None) -> str | None:
    """What is wrong with a server's address, and on a second line a hint; None if nothing is.

    An address with a user or password is refused without being shown: a run's config.yaml would
    keep it.
    """
    if url is None:
        return None
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
