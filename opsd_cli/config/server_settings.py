"""What a config may say of a vLLM server: an address without a password, arguments that work."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit


def wrong_address(url: str | None) -> str | None:
    """What is wrong with a server's address, and a line of what to write; None: nothing.

    It never shows a password, which an address may hold and a config must not.
    """
    if url is None:
        return None
    hint = "\nwrite http://HOST:PORT, as in http://gpu2:8000"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
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
    """What is wrong with the arguments of a vLLM server that is started; None: nothing."""
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
