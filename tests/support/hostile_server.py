"""What a server may do wrong, each as it would look on the wire."""

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
#: Of the embedded model.
VOCABULARY = 463

Act = Callable[[Any, Any], None]
"""Answers a request: gets its handler and body."""


@dataclass(frozen=True)
class Behaviour:
    """A fault.

    Attributes:
        at: where paths begin at which it shows.
        says: a part of the error; empty where the run goes on with the same bits.
        times: how often it shows; None: always.
        settings: of the run.
    """

    name: str
    act: Act
    says: str
    at: str = COMPLETIONS
    times: int | None = None
    settings: tuple[str, ...] = field(default=())

    @property
    def hangs(self) -> bool:
        """Whether nothing but a deadline ends its answer."""
        return self.name.endswith("hangs") or self.name.startswith(("hangs in", "drips"))


def send(handler: Any, status: int, body: bytes, *headers: tuple[str, str]) -> None:
    """A whole answer."""
    handler.send_response(status)
    for name, value in (("Content-Length", str(len(body))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def good(body: Any) -> dict[str, Any]:
    """What a well-behaved server answers."""
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
    """HTTP 200 with this body."""
    return lambda handler, _: send(handler, 200, body)


def json_of(value: Any) -> Act:
    return text(json.dumps(value).encode())


def raw(data: bytes, then: str = "close") -> Act:
    """These bytes, and then the connection closed, reset or left open."""

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
    """A beginning, and then a little now and then, for as long as anybody listens."""

    def act(handler: Any, body: Any) -> None:
        handler.wfile.write(head)
        while not handler.server.released.wait(0.02):
            handler.wfile.write(drop)

    return act


def endless(head: bytes, piece: bytes) -> Act:
    """As `dripping`, as fast as the network takes it."""

    def act(handler: Any, body: Any) -> None:
        handler.wfile.write(head)
        while not handler.server.released.is_set():
            handler.wfile.write(piece)

    return act


def answering(change: Callable[[dict[str, Any]], Any]) -> Act:
    """A good answer, changed: in place, or as what is given back."""

    def act(handler: Any, body: Any) -> None:
        answer = good(body)
        changed = change(answer)
        answer = answer if changed is None else changed
        send(handler, 200, json.dumps(answer).encode())

    return act


def choice(**changes: Any) -> Act:
    """A good answer whose completion has other fields; `...` leaves one out."""

    def change(answer: dict[str, Any]) -> None:
        for name, value in changes.items():
            answer["choices"][0][name] = value
            if value is ...:
                del answer["choices"][0][name]

    return answering(change)


def log_prob(value: Any) -> Act:
    """A good answer with another first log-probability."""

    def change(answer: dict[str, Any]) -> None:
        answer["choices"][0]["logprobs"]["token_logprobs"][0] = value

    return answering(change)


def token(value: Any) -> Act:
    """A good answer with another first token."""

    def change(answer: dict[str, Any]) -> None:
        answer["choices"][0]["token_ids"][0] = value

    return answering(change)


def chunked(handler: Any, body: Any) -> None:
    """A good answer in pieces of one byte."""
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


OK = b"HTTP/1.1 200 OK\r\n"
SLEEP = ("rollouts.vllm.sleep=true",)
GONE = "does not answer"
FAILS = "goes on failing"
ODD = "cannot be used"

BEHAVIOURS: list[Behaviour] = [
    # statuses
    *(Behaviour(f"{code} always", status(code), f"{FAILS}: HTTP {code}: boom")
      for code in (429, 500, 502, 503, 504)),
    *(Behaviour(f"{code} three times", status(code), "", times=3)
      for code in (429, 500, 502, 503, 504)),
    Behaviour("503 with Retry-After", status(503, "wait", ("Retry-After", "30")), "", times=4),
    Behaviour("503 with an endless Retry-After",
              status(503, "wait", ("Retry-After", "9" * 30)), "", times=4),
    Behaviour("501", status(501), "does not take a prompt: boom"),
    Behaviour("418", status(418), "does not take a prompt: boom"),
    Behaviour("400", status(400), "refuses a prompt: boom"),
    Behaviour("404 for ever", status(404), "refuses a prompt: boom"),
    Behaviour("401", status(401), "asks for an API key"),
    Behaviour("403", status(403), "asks for an API key"),
    Behaviour("301", status(301, "", ("Location", "http://other:1/")), "redirects to http://other"),
    Behaviour("307", status(307, "", ("Location", "/v1/completions")), "redirects to /v1"),
    Behaviour("302 to nowhere", status(302), "redirects to nowhere"),
    Behaviour("204", status(204, ""), "does not take a prompt"),
    Behaviour("206", status(206), "does not take a prompt"),
    Behaviour("an error of control codes", status(400, "\x1b[31mred\x07\x9b\nline"),
              "refuses a prompt: [31mred line"),
    Behaviour("an error of a megabyte", status(400, "x" * 2**20), "longer than"),
    Behaviour("an error of 60,000 letters", status(400, "x" * 60_000), "refuses a prompt: xxx"),
    Behaviour("an error of five megabytes", status(400, "x" * 5 * 2**20), "longer than"),
    Behaviour("an error nested deeply",
              lambda h, _: send(h, 400, b"[" * 60_000), "refuses a prompt: [[["),
    # connections
    Behaviour("hangs up", raw(b""), f"{GONE}: it hung up"),
    Behaviour("hangs up three times", raw(b""), "", times=3),
    Behaviour("cut off in its headers", raw(OK + b"Content-Le"), "cannot be used: it is not JSON"),
    Behaviour("cut off in its body", raw(OK + b"Content-Length: 99\r\n\r\n{"),
              f"{GONE}: its answer was cut off"),
    Behaviour("cut off in its body twice", raw(OK + b"Content-Length: 99\r\n\r\n{"), "", times=2),
    Behaviour("cut off in a chunk", raw(OK + b"Transfer-Encoding: chunked\r\n\r\n99\r\n{"),
              f"{GONE}: its answer was cut off"),
    Behaviour("resets", raw(b"", "reset"), GONE),
    Behaviour("resets three times", raw(b"", "reset"), "", times=3),
    Behaviour("hangs", raw(b"", "hang"), f"{GONE}: no whole answer within"),
    Behaviour("hangs in its headers", raw(OK, "hang"), f"{GONE}: no whole answer within"),
    Behaviour("hangs in its body", raw(OK + b"\r\n{", "hang"), f"{GONE}: no whole answer within"),
    Behaviour("drips headers", dripping(OK, b"A: b\r\n"), f"{GONE}: no whole answer within"),
    Behaviour("drips its status line", dripping(b"HTTP/1.1 200 ", b"O"), f"{GONE}: no whole"),
    Behaviour("drips a body", dripping(OK + b"\r\n", b" "), f"{GONE}: no whole answer within"),
    Behaviour("drips chunks", dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
              f"{GONE}: no whole answer within"),
    Behaviour("an endless body", endless(OK + b"\r\n", b" " * 2**16), "longer than"),
    Behaviour("endless chunks",
              endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 2**16
                      + b"\r\n"), "longer than"),
    Behaviour("a petabyte, it says", raw(OK + b"Content-Length: 9999999999999999\r\n\r\n"),
              "longer than"),
    Behaviour("endless headers", endless(OK, b"A: b\r\n" * 1000), GONE),
    Behaviour("a header of a megabyte", raw(OK + b"A: " + b"b" * 2**20), GONE),
    Behaviour("endless interim answers", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
              "longer than"),
    Behaviour("not HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n"), f"{GONE}: it does not speak HTTP"),
    Behaviour("a status that is no number", raw(b"HTTP/1.1 abc OK\r\n\r\n"), "not speak HTTP"),
    Behaviour("HTTP/9", raw(b"HTTP/9.9 200 OK\r\n\r\n"), "not speak HTTP"),
    Behaviour("zeros", raw(b"\0" * 1000), "not speak HTTP"),
    Behaviour("a negative chunk", raw(OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n"),
              GONE),
    Behaviour("a chunk of no size", raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), GONE),
    Behaviour("a negative length", raw(OK + b"Content-Length: -5\r\n\r\n{}"), ODD),
    # bodies
    Behaviour("an empty body", text(b""), "it is not JSON"),
    Behaviour("a page", text(b"<html><body>nginx</body></html>"), "it is not JSON"),
    Behaviour("JSON cut off", text(b'{"choices": [{"token_ids": [1, 2'), "it is not JSON"),
    Behaviour("two values", text(b"{}{}"), "it is not JSON"),
    Behaviour("invalid UTF-8", text(b'{"choices": "\xff\xfe"}'), "it is not UTF-8"),
    Behaviour("UTF-16", text("{}".encode("utf-16")), ODD),
    Behaviour("a byte-order mark", text(b"\xef\xbb\xbf{}"), "it is not JSON"),
    Behaviour("nested 490 deep", text(b"[" * 490 + b"]" * 490), "not a JSON object"),
    Behaviour("objects 490 deep", text(b'{"choices":' * 490 + b"1" + b"}" * 490), "no list"),
    Behaviour("nested 30,000 deep", text(b"[" * 30_000 + b"]" * 30_000), "nested too deeply"),
    Behaviour("a number of 5,000 digits", text(b'{"choices": ' + b"9" * 5000 + b"}"), ODD),
    Behaviour("null", json_of(None), "not a JSON object"),
    Behaviour("a list", json_of([]), "not a JSON object"),
    Behaviour("a number", json_of(7), "not a JSON object"),
    Behaviour("a string", json_of("ok"), "not a JSON object"),
    # choices
    Behaviour("no choices", answering(lambda a: a.pop("choices") and None), "no list of choices"),
    Behaviour("an object of choices", json_of({"choices": {"0": {}}}), "no list of choices"),
    Behaviour("an empty list of choices", json_of({"choices": []}), "it has 0 completions"),
    Behaviour("two choices", answering(lambda a: a["choices"].append(a["choices"][0])),
              "it has 2 completions"),
    Behaviour("a choice that is a list", json_of({"choices": [[]]}), "not a JSON object"),
    Behaviour("a choice that is null", json_of({"choices": [None]}), "not a JSON object"),
    # tokens
    Behaviour("500 tokens where 6 were asked", answering(too_many), "it has 500 tokens where"),
    Behaviour("no token ids", choice(token_ids=...), "gives no token ids"),
    Behaviour("null token ids", choice(token_ids=None), "gives no token ids"),
    Behaviour("an empty completion", choice(token_ids=[], logprobs={"token_logprobs": []}),
              "an empty completion"),
    Behaviour("a token beyond the vocabulary", token(VOCABULARY), f"token id {VOCABULARY} is none"),
    Behaviour("a token of 2**70", token(2**70), "is none of a vocabulary"),
    Behaviour("a token of 10**400", token(10**400), "is none of a vocabulary"),
    Behaviour("a negative token", token(-1), "token id -1 is none"),
    Behaviour("a token that is a float", token(5.0), "not a list of whole numbers"),
    Behaviour("a token that is true", token(True), "not a list of whole numbers"),
    Behaviour("a token that is text", token("5"), "not a list of whole numbers"),
    Behaviour("a token that is null", token(None), "not a list of whole numbers"),
    Behaviour("tokens in text", choice(token_ids="2 3"), "not a list of whole numbers"),
    Behaviour("tokens in an object", choice(token_ids={"0": 2}), "not a list of whole numbers"),
    # log-probabilities
    Behaviour("a log-probability of 50", log_prob(50), "is 50, which no token drawn has"),
    Behaviour("one of 0.01", log_prob(0.01), "is 0.01, which no token"),
    Behaviour("one of NaN", log_prob(float("nan")), "is nan, which no token"),
    Behaviour("one of infinity", log_prob(float("inf")), "is inf, which no token"),
    Behaviour("one of -infinity", log_prob(float("-inf")), "is -inf, which no token"),
    Behaviour("one of -9999", log_prob(-9999.0), "is -9999.0, which no token"),
    Behaviour("one of -10**400", log_prob(-(10**400)), "which no token drawn has"),
    Behaviour("one that is null", log_prob(None), "is None, not a number"),
    Behaviour("one that is true", log_prob(True), "is True, not a number"),
    Behaviour("one that is text", log_prob("-0.5"), "not a number"),
    Behaviour("one that is a list", log_prob([-0.5]), "not a number"),
    Behaviour("no log-probabilities", choice(logprobs=...), "it has no log-probabilities"),
    Behaviour("null log-probabilities", choice(logprobs=None), "it has no log-probabilities"),
    Behaviour("a list of them", choice(logprobs=[-0.5]), "it has no log-probabilities"),
    Behaviour("too few", choice(logprobs={"token_logprobs": []}), "0 log-probabilities for"),
    Behaviour("too many", choice(logprobs={"token_logprobs": [-1.0] * 99}), "99 log-prob"),
    # how it ended
    *(Behaviour(f"it ended with {reason!r}", choice(finish_reason=reason), "neither stop nor len")
      for reason in ("abort", "error", "repetition", "tool_calls", "", None, 5, ["stop"])),
    Behaviour("it does not say how it ended", choice(finish_reason=...), "neither stop nor length"),
    Behaviour("it stopped at no stop token", answering(stopped_nowhere), "no stop token of this"),
    Behaviour("it was cut short", answering(cut_short), "it was cut off at 1 of 6 tokens"),
    Behaviour("it goes on after its stop token", answering(past_its_stop), "goes on after its"),
    Behaviour("another prompt's answer", choice(prompt_token_ids=[9, 9]), "to another prompt"),
    Behaviour("another model's answer", answering(lambda a: a.update(model="gpt-2")),
              "by the model gpt-2"),
    # what is odd and harmless
    Behaviour("a good answer in chunks of a byte", chunked, ""),
    Behaviour("fields that nobody knows", answering(lambda a: a.update(new={"a": [1]})), ""),
    Behaviour("usage that is wrong", answering(lambda a: a.update(usage={"x": -1})), ""),
    # health
    Behaviour("health: 500", status(500), "no vLLM server answers", "/health"),
    Behaviour("health: 503 three times", status(503), "", "/health", 3),
    Behaviour("health: 404", status(404), "no vLLM server answers", "/health"),
    Behaviour("health: hangs", raw(b"", "hang"), "no vLLM server answers", "/health"),
    Behaviour("health: not HTTP", raw(b"+OK POP3\r\n"), "no vLLM server answers", "/health"),
    Behaviour("health: redirects", status(308, "", ("Location", "https://login/")),
              "redirects to https://login/", "/health"),
    # version
    *(Behaviour(f"version {version}", json_of({"version": version}), "", "/version")
      for version in ("0.10.2", "0.10.2+cu128", "0.10.2rc1", "0.11.0rc2.dev12+g1a2b3c4",
                      "0.32.0.post1", "dev")),
    *(Behaviour(f"version {version}", json_of({"version": version}), "is too old", "/version")
      for version in ("0.10.1.1", "0.9.2rc1", "0.10", "0.6.3.post1+cu118", "0.10.1+cu128")),
    *(Behaviour(f"version {version!r}", json_of({"version": version}), "not say its version",
                "/version") for version in (None, 12, "", ["0.12"], "1" * 5000, "0.12\x1b[2J")),
    Behaviour("version: a list", json_of(["0.12"]), "not a JSON object", "/version"),
    Behaviour("version: a page", text(b"<html>"), "it is not JSON", "/version"),
    Behaviour("version: 404", status(404, "Not Found"), "does not answer /version", "/version"),
    Behaviour("version: endless", endless(OK + b"\r\n", b" " * 2**16), "longer than", "/version"),
    # models
    Behaviour("models: another model", json_of({"data": [{"id": "m", "root": "gpt2"}]}),
              "serves gpt2, and this run's model is embedded", "/v1/models"),
    Behaviour("models: the same under another name",
              json_of({"data": [{"id": "base", "root": "/srv/EMBEDDED"}]}), "", "/v1/models"),
    Behaviour("models: none", json_of({"data": []}), "it lists no model", "/v1/models"),
    Behaviour("models: adapters alone", json_of({"data": [{"id": "a", "parent": "base"}]}),
              "it lists no model", "/v1/models"),
    Behaviour("models: no list", json_of({"data": "base"}), "no list of models", "/v1/models"),
    Behaviour("models: odd ones", json_of({"data": [None, 5, {"id": 7}, []]}),
              "it lists no model", "/v1/models"),
    Behaviour("models: 401", status(401), "asks for an API key", "/v1/models"),
    Behaviour("models: 500", status(500), f"{FAILS}: HTTP 500", "/v1/models"),
    Behaviour("models: nested", text(b"[" * 490 + b"]" * 490), "not a JSON object", "/v1/models"),
    # replicas
    Behaviour("server_info: two replicas",
              json_of({"vllm_config": {"parallel_config": {"data_parallel_size": 2}}}),
              "2 data-parallel replicas", "/server_info"),
    Behaviour("server_info: two replicas, in text",
              json_of({"vllm_config": "model='m', data_parallel_size=2, seed=0"}),
              "2 data-parallel replicas", "/server_info"),
    Behaviour("server_info: garbage", text(b"\xff\xfe{"), "", "/server_info"),
    Behaviour("server_info: odd", json_of({"vllm_config": {"parallel_config": [2]}}), "",
              "/server_info"),
    Behaviour("metrics: three engines",
              text(b'vllm:num_requests_running{engine="0"} 0\nvllm:num_requests_running{engine="1"}'
                   b' 0\nvllm:num_requests_running{engine="2"} 0\n'),
              "3 data-parallel replicas", "/metrics"),
    Behaviour("metrics: one engine", text(b'vllm:x{engine="0",model_name="base"} 0\n'), "",
              "/metrics"),
    Behaviour("metrics: hangs", raw(b"", "hang"), "", "/metrics"),
    Behaviour("metrics: endless", endless(OK + b"\r\n", b"x" * 2**16), "", "/metrics"),
    # adapters
    Behaviour("load: 500", status(500), f"{FAILS}: HTTP 500", LOAD),
    Behaviour("load: 500 three times", status(500), "", LOAD, 3),
    Behaviour("load: hangs up twice", raw(b""), "", LOAD, 2),
    Behaviour("load: 400", status(400, "rank 64 is greater than max_lora_rank"),
              "does not take the adapter: rank 64", LOAD),
    Behaviour("load: 404", status(404), "does not take the adapter", LOAD),
    Behaviour("load: 401", status(401), "asks for an API key", LOAD),
    Behaviour("load: hangs", raw(b"", "hang"), f"{GONE}: no whole answer within", LOAD),
    Behaviour("load: endless", endless(OK + b"\r\n", b" " * 2**16), "longer than", LOAD),
    Behaviour("load: does nothing, well", text(b""), "has lost the adapter 4 times", LOAD),
    Behaviour("unload: 500", status(500), "", "/v1/unload"),
    Behaviour("unload: hangs", raw(b"", "hang"), "", "/v1/unload"),
    # sleep
    Behaviour("sleep: 404", status(404), "does not go to sleep", "/sleep", None, SLEEP),
    Behaviour("sleep: 500", status(500), f"{FAILS}: HTTP 500", "/sleep", None, SLEEP),
    Behaviour("sleep: 503 twice", status(503), "", "/sleep", 2, SLEEP),
    Behaviour("sleep: hangs", raw(b"", "hang"), f"{GONE}: no whole answer", "/sleep", None, SLEEP),
    Behaviour("wake: 400", status(400), "does not wake up", "/wake_up", None, SLEEP),
    Behaviour("wake: 500", status(500), f"{FAILS}: HTTP 500", "/wake_up", None, SLEEP),
    Behaviour("wake: hangs up twice", raw(b""), "", "/wake_up", 2, SLEEP),
]  # fmt: skip
