"""Stands in for a vLLM server that misbehaves: answers that are wrong on the wire or in content.

`tests.support.hostile_behaviours` has the table of behaviours that are built from these answers.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fake_vllm import STOP, completion

COMPLETIONS = "/v1/completions"
LOAD = "/v1/load_lora_adapter"
Act = Callable[[Any, Any], None]
"""Answers a request: gets its handler and body."""


@dataclass(frozen=True)
class Behaviour:
    """A fault of the server.

    Attributes:
        act: answers a request.
        says: part of the error; empty if the run continues with the same rollouts.
        at: prefix of the paths at which it shows.
        times: how often it shows; None: always.
        settings: config of the run.
    """

    name: str
    act: Act
    says: str
    at: str = COMPLETIONS
    times: int | None = None
    settings: tuple[str, ...] = field(default=())

    @property
    def hangs(self) -> bool:
        """True if only a deadline ends the answer."""
        return self.name.endswith("hangs") or self.name.startswith(("hangs in", "drips"))


def send(handler: Any, status: int, body: bytes, *headers: tuple[str, str]) -> None:
    """Send a complete answer."""
    handler.send_response(status)
    for name, value in (("Content-Length", str(len(body))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def good(body: Any) -> dict[str, Any]:
    """The answer of a correct server."""
    ids = completion(body["seed"], body["max_tokens"])
    return {
        "id": "cmpl-1",
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "text": "",
                "token_ids": ids,
                "prompt_token_ids": body["prompt"],
                "logprobs": {"token_logprobs": [-0.5] * len(ids), "tokens": ["x"] * len(ids)},
                "finish_reason": "stop" if ids[-1] == STOP else "length",
            }
        ],
        "usage": {"completion_tokens": len(ids)},
    }


def status(code: int, said: str = "boom", *headers: tuple[str, str]) -> Act:
    text = json.dumps({"error": {"message": said}}).encode()
    return lambda handler, body: send(handler, code, text, *headers)


def text(body: bytes) -> Act:
    """Answer HTTP 200 with this body."""
    return lambda handler, _: send(handler, 200, body)


def json_of(value: Any) -> Act:
    return text(json.dumps(value).encode())


def raw(data: bytes, then: str = "close") -> Act:
    """Send these bytes, then close or reset the connection, or leave it open."""

    def act(handler: Any, body: Any) -> None:
        handler.wfile.write(data)
        handler.wfile.flush()
        if then == "hang":
            handler.server.released.wait(60)
        if then == "reset":
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        handler.connection.close()

    return act


def dripping(head: bytes, drop: bytes) -> Act:
    """Send a beginning, then a few bytes now and then until the client leaves."""

    def act(handler: Any, body: Any) -> None:
        handler.wfile.write(head)
        while not handler.server.released.wait(0.02):
            handler.wfile.write(drop)

    return act


def endless(head: bytes, piece: bytes) -> Act:
    """As `dripping`, as fast as possible."""

    def act(handler: Any, body: Any) -> None:
        handler.wfile.write(head)
        while not handler.server.released.is_set():
            handler.wfile.write(piece)

    return act


def answering(change: Callable[[dict[str, Any]], Any]) -> Act:
    """A correct answer, changed in place or replaced by the return value."""

    def act(handler: Any, body: Any) -> None:
        answer = good(body)
        changed = change(answer)
        answer = answer if changed is None else changed
        send(handler, 200, json.dumps(answer).encode())

    return act


def choice(**changes: Any) -> Act:
    """A correct answer with other fields of its completion; `...` removes one."""

    def change(answer: dict[str, Any]) -> None:
        for name, value in changes.items():
            answer["choices"][0][name] = value
            if value is ...:
                del answer["choices"][0][name]

    return answering(change)


def log_prob(value: Any) -> Act:
    """A correct answer with another first log-probability."""

    def change(answer: dict[str, Any]) -> None:
        answer["choices"][0]["logprobs"]["token_logprobs"][0] = value

    return answering(change)


def token(value: Any) -> Act:
    """A correct answer with another first token."""

    def change(answer: dict[str, Any]) -> None:
        answer["choices"][0]["token_ids"][0] = value

    return answering(change)


def chunked(handler: Any, body: Any) -> None:
    """A correct answer in chunks of one byte."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for byte in json.dumps(good(body)).encode():
        handler.wfile.write(b"1\r\n" + bytes([byte]) + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def too_many(answer: dict[str, Any]) -> None:
    answer["choices"][0] |= {
        "token_ids": [5] * 500,
        "logprobs": {"token_logprobs": [-0.5] * 500},
        "finish_reason": "length",
    }


def cut_short(answer: dict[str, Any]) -> None:
    answer["choices"][0] |= {
        "token_ids": [5],
        "logprobs": {"token_logprobs": [-0.5]},
        "finish_reason": "length",
    }


def stopped_nowhere(answer: dict[str, Any]) -> None:
    cut_short(answer)
    answer["choices"][0]["finish_reason"] = "stop"


def past_its_stop(answer: dict[str, Any]) -> None:
    answer["choices"][0] |= {
        "token_ids": [5, STOP, 5],
        "logprobs": {"token_logprobs": [-0.5] * 3},
        "finish_reason": "stop",
    }
