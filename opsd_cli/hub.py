"""Access to the Hugging Face hub: a quick reachability test, and its errors in one line.

The hub's client, transformers and datasets each word the same few failures differently, and retry
an unreachable network silently for half a minute before they use the cache. So one connection to
the endpoint is tried first, and exceptions are translated by their type. `HF_HOME`, `HF_ENDPOINT`,
`HF_HUB_OFFLINE` and proxies have their usual meaning.

Imports those libraries only when needed: a run on local files does not load them.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from opsd_cli import errors
from opsd_cli.errors import UsageError

Kind = Literal["model", "data set"]
ENDPOINT = "https://huggingface.co"
#: Timeout of the connection that tests whether the hub is reachable.
CONNECT_SECONDS = 3.0
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def offline() -> bool:
    """True if the environment asks for the cache alone (HF_HUB_OFFLINE and the like)."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE)


def cache_folder() -> Path:
    """The folder that the Hugging Face libraries download models and data sets to."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@cache
def reach() -> bool:
    """True if the hub can be reached; if not, this process switches to offline mode.

    Tested once per process. Behind a proxy the client finds out itself.
    """
    if offline():
        return False
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        return True
    parts = urlsplit(os.environ.get("HF_ENDPOINT") or ENDPOINT)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError):
        _go_offline()
        return False
    return True


_unreachable = False


def offline_by_choice() -> bool:
    """True if offline mode is asked for, and not a network that could not be reached."""
    return offline() and not _unreachable


def is_lfs_pointer(start: bytes) -> bool:
    """True if a file begins as the pointer that Git LFS leaves in place of the file itself."""
    return start.startswith(b"version https://git-lfs.github.com/spec/")


LFS_HINT = "run `git lfs install` and `git lfs pull` in its repository, or download the file again"


def _go_offline() -> None:
    """Set offline mode for libraries imported from now on and for those already imported."""
    global _unreachable
    _unreachable = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    for module in ("huggingface_hub.constants", "datasets.config"):
        if module in sys.modules:
            sys.modules[module].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes and contexts, newest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def as_hub_error(error: Exception, name: str, kind: Kind) -> UsageError | None:
    """The hub's failure behind an exception, as one line with a hint; None if it is no failure of
    the hub.

    Args:
        error: as raised, with its causes.
        name: of the repository.
        kind: "model" or "data set".

    Returns:
        A `ModelError` or `DataError`; `ModelNotAtHand` or `DataNotAtHand` if the repository may
        exist, but is not in the cache and the hub cannot be reached.
    """
    told = errors.ModelError if kind == "model" else errors.DataError
    from huggingface_hub import errors as hub

    chain = list(causes(error))
    text = " ".join(str(link) for link in chain)
    page = f"{os.environ.get('HF_ENDPOINT') or ENDPOINT}/{'' if kind == 'model' else 'datasets/'}"

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if met(hub.GatedRepoError) or "access a gated repo" in text or "is a gated" in text:
        return told(
            f"{name} is gated: its licence must be accepted first",
            f"accept it at {page}{name}, then run `hf auth login`",
        )
    if met(hub.RevisionNotFoundError) or "Invalid rev id" in text:
        return told(
            f"{name} has no such revision", "check the revision; a branch, tag or commit will do"
        )
    unreachable = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError)
    # The client's network errors, whose module has different names in different versions.
    in_transport = any(base.__name__ == "TransportError" for e in chain for base in type(e).__mro__)
    if met(*unreachable) or in_transport or offline():
        why = "offline mode is on" if offline_by_choice() else "the hub cannot be reached"
        missing = errors.ModelNotAtHand if kind == "model" else errors.DataNotAtHand
        return missing(
            f"the {kind} {name} is not in the cache, and {why}",
            "check the name, the network and HF_HUB_OFFLINE; or name a local "
            + ("folder" if kind == "model" else "file"),
        )
    if met(hub.RepositoryNotFoundError) or _says(chain, "doesn't exist on the Hub"):
        return told(
            f"there is no {kind} {name} on the hub, or it is private",
            "check the name; for a private one run `hf auth login`; "
            + (
                "did you mean a folder? name one that holds config.json and *.safetensors"
                if kind == "model"
                else "did you mean a file? name it with its suffix"
            ),
        )
    return None


def _says(chain: list[BaseException], words: str) -> bool:
    return any(words in str(link) for link in chain)
