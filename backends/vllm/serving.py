"""Checks that a server can serve this run: its model, its replicas, its API key."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from backends.interface import Policy
from backends.shared.model_files import read_settings
from backends.vllm import responses
from backends.vllm.client import Client
from backends.vllm.responses import shown
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, UsageError

#: Environment variable from which vLLM reads the key that it asks of clients.
KEY = "VLLM_API_KEY"


def key_from_environment() -> str | None:
    """The API key of a server that somebody else started; None without one.

    Raises:
        UsageError: it has characters that an HTTP header cannot hold.
    """
    key = os.environ.get(KEY, "").strip()
    if not all(33 <= ord(letter) < 127 for letter in key):
        raise UsageError(
            f"the environment variable {KEY} holds characters that no API key has",
            "set it to the key that the server was started with",
        )
    return key or None


def require_model(client: Client, config: Config) -> str:
    """The name under which the server serves this run's model.

    Raises:
        UsageError: it serves another model, or has several data-parallel replicas.
        TrainingError: it does not answer.
    """
    replicas = data_parallel_size(client)
    if replicas > 1:
        raise UsageError(
            f"the vLLM server at {client.url} has {replicas} data-parallel replicas: an adapter "
            "that is loaded reaches only the one that answers",
            "start it without --data-parallel-size; several servers, each with an address in "
            "rollouts.vllm.url, get the adapter each",
        )
    model = client.models()[0]
    root = model.get("root")
    wanted = _names(config.model) | _names(config.model_path)
    if isinstance(root, str) and not wanted & (_names(root) | _names(model["id"])):
        raise UsageError(
            f"the vLLM server at {client.url} serves {shown(root)}, and this run's model is "
            f"{config.model}",
            "start it with the same model; if it is the same one in another folder, start it with "
            f"--served-model-name {config.model}",
        )
    name: str = model["id"]
    return name


def data_parallel_size(client: Client) -> int:
    """Number of data-parallel replicas at the address; 1 if the server does not say.

    /metrics labels its numbers with each engine; it is missing where the server was started without
    statistics. /server_info has the configuration, and exists in vLLM's development mode alone.
    """

    def in_config(body: bytes) -> int:
        return responses.replicas_in_config(responses.parsed_json(body)) or 1

    def in_metrics(body: bytes) -> int:
        return responses.replicas_in_metrics(body.decode(errors="replace"))

    return max(
        client.optional("/metrics", in_metrics) or 1,
        client.optional("/server_info?config_format=json", in_config) or 1,
    )


def vocabulary_of(config: Config, policy: Policy) -> int | None:
    """One more than the highest token id that the trainer can learn from; None if unknown.

    A model's head may have more rows than the tokenizer has tokens.
    """
    known: list[int] = []
    size: Any = getattr(policy.tokenizer, "size", None)
    if isinstance(size, int):
        known.append(size)
    try:
        settings = read_settings(config.model_path, config.revision)
    except ModelError:
        return min(known, default=None)
    inner = settings.get("text_config")
    rows = {**settings, **(inner if isinstance(inner, dict) else {})}.get("vocab_size")
    if isinstance(rows, int):
        known.append(rows)
    return min(known, default=None)


def _names(path: str) -> set[str]:
    """Names of the model in a hub id or a path: the last part, and that of a hub cache's folder."""
    parts = PurePath(path).parts
    cached = {part.rpartition("--")[2] for part in parts if part.startswith("models--")}
    return {name.lower() for name in {*parts[-1:], *cached}}
