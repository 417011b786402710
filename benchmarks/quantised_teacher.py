"""What `teacher.quantize` costs and saves: memory, CPU time and the scores of a pretrained teacher.

    python benchmarks/quantised_teacher.py --model DIR --problems FILE.jsonl [--rows 32]

Each form is a process of its own on the CPU: the teacher is loaded by PyTorch, reads `--rows`
questions with their solutions twice, and the second reading is timed. Memory is the resident set's
rise since before the model was loaded, freed memory returned. The planned bytes are those of the
memory plan. A row of FILE has `question` and `solution`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import measured_elsewhere, parser

FORMS = ("none", "int8", "int4")


def config_of(model: str, form: str) -> Any:
    """A run in which the model teaches, quantised as the form says."""
    from opsd_cli.config.resolve import resolve

    settings = (f"model={model}", f"teacher.model={model}", f"teacher.quantize={form}")
    return resolve(None, (*settings, "backend=cpu", "train.micro_batch_tokens=2048"))


def measure(form: str, model: str, problems: str, rows: int) -> dict[str, Any]:
    """Bytes, CPU seconds and log-probabilities of one form."""
    import psutil

    import backends
    from backends.interface import Sampling

    config = config_of(model, form)
    backend = backends.get("cpu")
    backend.capability()
    __import__("backends.pytorch.policy")
    if form != "none":
        __import__("bitsandbytes")
    process = psutil.Process()
    before = process.memory_info().rss
    # The teacher alone, as a policy of its own would hold it beside the student.
    from backends.pytorch.loading import load
    from backends.pytorch.policy import TorchPolicy, base_dtype
    from backends.pytorch.quantization import quantise
    from backends.shared.quantization import BITS

    device = __import__("torch").device("cpu")
    teacher = config.teacher_config
    loaded = load(teacher, base_dtype(teacher, device))
    bits = BITS[form]
    if bits is not None:
        quantise(loaded.model, bits, device, teacher.model)
    policy = TorchPolicy(teacher, loaded, device, trainable=False)
    size = process.memory_info().rss - before
    encode = policy.tokenizer.encode
    pairs = []
    for line in Path(problems).read_text().splitlines()[:rows]:
        row = json.loads(line)
        pairs.append((tuple(encode(row["question"])), tuple(encode(row["solution"]))))
    policy.score(pairs, sampling=Sampling())
    began = time.process_time()
    scores = policy.score(pairs, sampling=Sampling())
    cpu = time.process_time() - began
    return {"bytes": size, "cpu": cpu, "scores": [float(x) for row in scores for x in row]}


def planned(form: str, model: str) -> int:
    """Bytes of the teacher's weights in the memory plan."""
    import backends
    from opsd_cli.planning.memory_plan import Prompts, plan
    from opsd_cli.planning.model_shape import configured_shape, teacher_shape

    config, memory = config_of(model, form), backends.traits_of("cpu").memory
    shape = configured_shape(config)
    assert shape is not None
    teacher = teacher_shape(config, memory)
    return plan(config, shape, Prompts(50, 90), memory, True, teacher=teacher).teacher


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", required=True, help="a pretrained model's folder")
    options.add_argument("--problems", required=True, help="JSON lines with question and solution")
    options.add_argument("--rows", type=int, default=32, help="problems that are read (32)")
    options.add_argument("--measure", choices=FORMS)
    given = options.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.model, given.problems, given.rows)))
        return
    print("| teacher.quantize | planned | measured | CPU s | mean log p | mean change of log p |")
    print("|---|---|---|---|---|---|")
    whole: list[float] = []
    for form in FORMS:
        command = [sys.executable, __file__, "--measure", form, "--model", given.model]
        command += ["--problems", given.problems, "--rows", str(given.rows)]
        # glibc is configured to return freed memory, so that the resident set is what is in use.
        found: Any = measured_elsewhere(
            command, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0"
        )
        scores = found["scores"]
        whole = whole or scores
        change = sum(abs(a - b) for a, b in zip(scores, whole, strict=True)) / len(scores)
        print(
            f"| {form} | {planned(form, given.model) / 2**20:.0f} MiB "
            f"| {found['bytes'] / 2**20:.0f} MiB | {found['cpu']:.1f} "
            f"| {sum(scores) / len(scores):.3f} | {change:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
