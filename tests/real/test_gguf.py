"""A merged export of a pretrained model as a GGUF file: llama.cpp answers as transformers does.

    OPSD_LLAMA_CPP=DIR OPSD_REAL_DIR=KIT pytest -n 0 tests/real/test_gguf.py

DIR is llama.cpp's sources with, in gguf-env, the environment of docs/export.md and the package
llama-cpp-python; KIT is what `python -m benchmarks.real.make` makes. Without both the test is
skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd_cli import Listener, load_config
from opsd_cli.exporting import export
from tests.support import modelfiles, oracle

LLAMA_CPP, KIT = os.environ.get("OPSD_LLAMA_CPP"), os.environ.get("OPSD_REAL_DIR")
QUESTION, TOKENS = "What is 12 + 30? Answer in one sentence.", 12
#: Of the random adapter: large enough to change the answer.
SCALE = 0.13
#: Prints the chat template, the ids of a prompt, and the ids of its greedy answer.
ASK = """
import json, sys
from itertools import islice
from llama_cpp import Llama

path, text, tokens = sys.argv[1:]
model = Llama(path, n_ctx=512, n_threads=1, verbose=False)
prompt = model.tokenize(text.encode(), add_bos=True, special=True)
answer = list(islice(model.generate(prompt, temp=0.0, repeat_penalty=1.0), int(tokens)))
print(json.dumps([model.metadata["tokenizer.chat_template"], prompt, answer]))
"""

pytestmark = [
    pytest.mark.skipif(
        not (LLAMA_CPP and KIT), reason="OPSD_LLAMA_CPP or OPSD_REAL_DIR is not in the environment"
    ),
    pytest.mark.timeout(900),
]


def greedy(folder: Path, prompt: list[int]) -> list[int]:
    """transformers' most likely continuation of a prompt."""
    ids = torch.tensor([prompt])
    output = AutoModelForCausalLM.from_pretrained(folder).generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
    )
    found: list[int] = output[0, len(prompt) :].tolist()
    return found


def test_gguf_of_a_merged_export_answers_as_transformers_does(tmp_path: Path) -> None:
    model, merged = Path(str(KIT)) / "model", tmp_path / "merged"
    adapter = oracle.random_adapter(model, tmp_path / "adapter", seed=0, scale=SCALE)
    config = load_config(model=str(model), adapter=str(adapter), backend="cpu")
    export(config, "merged", merged, Listener(), dtype="float32")
    text = modelfiles.read((merged / "Modelfile").read_text()).prompt(QUESTION)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    wanted = greedy(merged, prompt)
    assert wanted != greedy(model, prompt)

    home, file = Path(str(LLAMA_CPP)), merged / "model.gguf"
    python = home / "gguf-env" / "bin" / "python"
    converted = ["--outfile", file, "--outtype", "f32"]
    subprocess.run([python, home / "convert_hf_to_gguf.py", merged, *converted], check=True)
    asked = [python, "-c", ASK, file, text, str(TOKENS)]
    done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
    assert json.loads(done.stdout) == [tokenizer.chat_template, prompt, wanted]
