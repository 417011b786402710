"""How much of a training step is matrix products: ours and TRL's, on the same work as step.py.

    python benchmarks/step_profile.py --model DIR

Two steps of each form after the first, by torch.profiler, in a process of its own. Printed: seconds
of a step's operators, of those that multiply matrices, and the latter's share.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import parser, take_turns, threads_here
from benchmarks.step import FORMS, SHAPES, TIMED, Timed, build, ours, shape_of, trl

#: Operators that multiply matrices.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
#: Of step.py.
MICRO_BATCH = 16_384


def profiled(form: str, name: str, folder: Path) -> dict[str, float]:
    """Seconds of a step's operators: all of them, and the matrix products."""
    import torch

    torch.set_num_threads(threads_here())
    shape = shape_of(name, folder)
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    if form == "ours":
        step = ours(folder, shape, MICRO_BATCH)
        step()
        profile.start()
        for _ in range(TIMED):
            step()
    else:
        with contextlib.suppress(Timed):
            trl(form, folder, shape, profile.start)()
    profile.stop()
    spent = {each.key: each.self_cpu_time_total / 1e6 / TIMED for each in profile.key_averages()}
    return {"all": sum(spent.values()), "products": sum(spent.get(key, 0) for key in PRODUCTS)}


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--shape", choices=SHAPES, default="A")
    options.add_argument("--model", type=Path, help="a pretrained model's folder, for --shape")
    options.add_argument("--form", choices=FORMS, action="append")
    options.add_argument("--threads", type=int, default=2, help="of each process (2)")
    options.add_argument("--measure", nargs=3, metavar=("FORM", "SHAPE", "FOLDER"))
    given = options.parse_args()
    if given.measure:
        form, name, folder = given.measure
        print(json.dumps(profiled(form, name, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as made:
        folder, name = given.model or Path(made), "model" if given.model else given.shape
        if not given.model:
            build(folder, SHAPES[name])
        forms = {
            FORMS[form]: [sys.executable, __file__, "--measure", form, name, folder]
            for form in given.form or FORMS
        }
        found = take_turns(
            forms, given.rounds, OMP_NUM_THREADS=str(given.threads), TRL_EXPERIMENTAL_SILENCE="1"
        )
    print("| form | operators | matrix products | share |\n|---|---|---|---|")
    for form, rows in found.items():
        every, products = (statistics.median(row[key] for row in rows) for key in rows[0])
        print(f"| {form} | {every:.2f} s | {products:.2f} s | {products / every:.0%} |")


if __name__ == "__main__":
    main()
