"""A merged export of a pretrained model as a GGUF file: llama.cpp answers as transformers does.

    OPSD_LLAMA_CPP=DIR OPSD_REAL_DIR=KIT pytest -n 0 tests/real/test_gguf.py

DIR is llama.cpp's sources, with llama-server in build/bin and, in gguf-env, the environment of
docs/export.md; KIT is what `python -m benchmarks.real.make` makes. Without both the test is
skipped.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opsd_cli import Listener, load_config
from opsd_cli.exporting import export
from tests.support import modelfiles, oracle

LLAMA_CPP, KIT = os.environ.get("OPSD_LLAMA_CPP"), os.environ.get("OPSD_REAL_DIR")
QUESTION, TOKENS = "What is 12 + 30? Answer in one sentence.", 12
#: Of the random adapter, so small that the model still speaks.
SCALE = 0.02

pytestmark = [
    pytest.mark.skipif(not (LLAMA_CPP and KIT), reason="OPSD_LLAMA_CPP is not in the environment"),
    pytest.mark.timeout(900),
]
Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


@contextmanager
def server(weights: Path) -> Iterator[Ask]:
    """llama-server on a GGUF file; what it is asked with a path and the body of a request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(str(LLAMA_CPP)) / "build" / "bin" / "llama-server"
    words = ["-m", str(weights), "--port", str(port), "-c", "512", "-np", "1", "-t", "1"]

    def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    with subprocess.Popen([program, *words], stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                try:
                    ask("/health")
                    break
                except OSError:  # not listening yet, or (503) still loading
                    time.sleep(0.2)
            yield ask
        finally:
            process.kill()


def test_gguf_of_a_merged_export_answers_as_transformers_does(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, merged = Path(str(KIT)) / "model", tmp_path / "merged"
    adapter = oracle.random_adapter(model, tmp_path / "adapter", seed=0, scale=SCALE)
    config = load_config(model=str(model), adapter=str(adapter), backend="cpu")
    export(config, "merged", merged, Listener(), dtype="float32")
    home = Path(str(LLAMA_CPP))
    subprocess.run(
        [home / "gguf-env/bin/python", home / "convert_hf_to_gguf.py", merged,
         "--outfile", merged / "model.gguf", "--outtype", "f32"],
        check=True,
    )  # fmt: skip

    text = modelfiles.read((merged / "Modelfile").read_text()).prompt(QUESTION)
    prompt = AutoTokenizer.from_pretrained(merged).encode(text, add_special_tokens=False)
    reference = AutoModelForCausalLM.from_pretrained(merged)
    ids = torch.tensor([prompt])
    wanted = reference.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
    )[0, len(prompt) :].tolist()
    assert len(wanted) == TOKENS
    with server(merged / "model.gguf") as ask:
        said = {"content": text, "add_special": True, "parse_special": True}
        assert ask("/tokenize", said)["tokens"] == prompt
        asked = {"prompt": text, "n_predict": TOKENS, "temperature": 0.0, "return_tokens": True}
        assert ask("/completion", asked)["tokens"] == wanted
        turns = [{"role": "user", "content": QUESTION}]
        assert ask("/apply-template", {"messages": turns})["prompt"] == text
