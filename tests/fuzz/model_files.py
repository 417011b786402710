"""Damaged files of a tiny model and its adapter: they load, or they are refused in one line.

    python -m tests.fuzz.model_files --cases 500 --seed 1 --backend cpu

Each case copies both folders, damages one file in one way, loads them, renders a chat, draws three
tokens and scores a completion. A refusal is an `OpsdError` of one line with a hint of one line; any
other exception is "unexpected", and the program then exits with 1. What loads is compared with the
undamaged model: "the same", or "different", which no program can detect if the new value is a
possible one (a bit of a weight, a norm's epsilon). Kinds of damage that are always detectable must
be refused.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tiny_models

#: A case that takes longer counts as a hang; long enough for a busy machine.
HANG_SECONDS = 300
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors.index.json",
    "adapter_config.json",
)
WEIGHTS = ("model-1.safetensors", "model-2.safetensors", "adapter_model.safetensors")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e-308, 0.5,
    float("nan"), float("inf"), "", "x", "../../x", "model.bin", [], [1], ["x"], {}, {"x": 1},
)  # fmt: skip
#: Kinds of damage that must be refused, whatever the file.
SEEN = ("truncate a weights file", "not a number", "lie in the header", "enormous header")


@dataclass(frozen=True)
class Outcome:
    """Outcome of one case; `kind` is a column of the table."""

    file: str
    damage: str
    kind: str
    said: str


def undamaged(root: Path) -> tuple[Path, Path]:
    """Write a model in two files with an index, and an adapter on it."""
    from safetensors.numpy import load_file, save_file

    from tests.support import oracle

    model = tiny_models.build_model(root / "model", "llama")
    adapter = oracle.random_adapter(model, root / "adapter", 1)
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    half = len(names) // 2
    where: dict[str, str] = {}
    for file, part in (("model-1", names[:half]), ("model-2", names[half:])):
        chosen = {name: tensors[name] for name in part}
        save_file(chosen, model / f"{file}.safetensors", metadata={"format": "pt"})
        where |= dict.fromkeys(part, f"{file}.safetensors")
    (model / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return model, adapter


# -- damage -------------------------------------------------------------------------------------


def delete(path: Path, _: random.Random) -> str:
    path.unlink()
    return "delete"


def empty(path: Path, _: random.Random) -> str:
    path.write_bytes(b"")
    return "empty"


def truncate(path: Path, draw: random.Random) -> str:
    whole = path.read_bytes()
    path.write_bytes(whole[: draw.randrange(len(whole))])
    return "truncate a weights file" if path.suffix == ".safetensors" else "truncate"


def flip_bits(path: Path, draw: random.Random) -> str:
    whole = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 4, 30])):
        whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    path.write_bytes(whole)
    return "flip bits"


def insert_bytes(path: Path, draw: random.Random) -> str:
    whole = path.read_bytes()
    at = draw.randrange(len(whole) + 1)
    path.write_bytes(whole[:at] + draw.randbytes(draw.choice([1, 7, 300])) + whole[at:])
    return "insert bytes"


def a_folder(path: Path, _: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def another_file(path: Path, draw: random.Random) -> str:
    others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    path.write_bytes(draw.choice(sorted(others)).read_bytes())
    return "another file in its place"


def _slots(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every place of a JSON tree that holds a value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        found.append((tree, key))
        if isinstance(value, dict | list):
            _slots(value, found)
    return found


def _edit(path: Path, change: Callable[[Any, list[tuple[Any, Any]]], Any]) -> None:
    tree = json.loads(path.read_text())
    tree = change(tree, _slots(tree, []))
    path.write_text(json.dumps(tree))


def replace_value(path: Path, draw: random.Random) -> str:
    said = ""

    def change(tree: Any, slots: list[tuple[Any, Any]]) -> Any:
        nonlocal said
        # Half of the time at the top level, because a vocabulary outnumbers all other places.
        if draw.random() < 0.5:
            slots = [slot for slot in slots if slot[0] is tree] or slots
        place, key = draw.choice(slots)
        place[key] = draw.choice(VALUES)
        said = f"{key} := {place[key]!r}"[:60]
        return tree

    _edit(path, change)
    return f"replace a value ({said})"


def remove_value(path: Path, draw: random.Random) -> str:
    said = ""

    def change(tree: Any, slots: list[tuple[Any, Any]]) -> Any:
        nonlocal said
        place, key = draw.choice([slot for slot in slots if slot[0] is tree])
        del place[key]
        said = str(key)[:40]
        return tree

    _edit(path, change)
    return f"remove a value ({said})"


def other_root(path: Path, draw: random.Random) -> str:
    _edit(path, lambda tree, _: draw.choice([[tree], "x", 3, None, [], {}, [1, 2]]))
    return "another kind of JSON"


def nest(path: Path, draw: random.Random) -> str:
    depth = draw.choice([400, 20_000])
    text = path.read_text().rstrip().removesuffix("}")
    comma = "," if text.rstrip() != "{" else ""
    path.write_text(f'{text}{comma} "deep": {"[" * depth}{"]" * depth}}}')
    return "nest deeply"


def _split(path: Path) -> tuple[dict[str, Any], bytes]:
    whole = path.read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8:end]), whole[end:]


def _join(path: Path, header: Any, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def not_a_number(path: Path, draw: random.Random) -> str:
    header, data = _split(path)
    names = sorted(name for name in header if name != "__metadata__")
    first, last = header[draw.choice(names)]["data_offsets"]
    wrong = struct.pack("<f", draw.choice([float("nan"), float("inf"), float("-inf")]))
    whole = bytearray(data)
    whole[first:last] = wrong * ((last - first) // 4)
    _join(path, header, bytes(whole))
    return "not a number"


def lie_in_the_header(path: Path, draw: random.Random) -> str:
    header, data = _split(path)
    name = draw.choice(sorted(name for name in header if name != "__metadata__"))
    entry = header[name]
    lie = draw.randrange(6)
    if lie == 0:
        entry["shape"] = [*entry["shape"][:-1], draw.choice([0, 10**12, -1, "x", None])]
    elif lie == 1:
        entry["data_offsets"] = draw.choice([[0, 10**15], [-5, 7], [9, 3], "x", [1]])
    elif lie == 2:
        entry["dtype"] = draw.choice(["Q4", None, 7, "F64"])
    elif lie == 3:
        header[name] = draw.choice([None, [], "x", 3])
    elif lie == 4:
        header["no.layer.of.any.model"] = header.pop(name)
    else:
        entry["shape"] = [size + 1 for size in entry["shape"]]
    _join(path, header, data)
    return "lie in the header"


def enormous_header(path: Path, draw: random.Random) -> str:
    if draw.random() < 0.5:
        entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        _join(path, {f"t{n}": entry for n in range(120_000)}, b"")
    else:
        length = draw.choice([2**62, 2**40, 200 * 2**20])
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    return "enormous header"


ANY = (delete, empty, truncate, flip_bits, insert_bytes, a_folder, another_file)
OF_JSON = (replace_value, replace_value, replace_value, replace_value, remove_value, remove_value)
OF_WEIGHTS = (not_a_number, lie_in_the_header, lie_in_the_header, enormous_header)


def damage(model: Path, adapter: Path, draw: random.Random) -> tuple[str, str]:
    """Damage one file in one way; returns the file and the kind of damage."""
    json_file = draw.random() < 0.7
    name = draw.choice(SMALL_FILES if json_file else WEIGHTS)
    path = (adapter if name.startswith("adapter") else model) / name
    special = (*OF_JSON, other_root, nest) if json_file else OF_WEIGHTS
    how = draw.choice(special if draw.random() < 0.65 else ANY)
    return name, how(path, draw)


# -- use ----------------------------------------------------------------------------------------


def use(backend: str, model: Path, adapter: Path) -> np.ndarray:
    """Make every call of a run; returns the token ids and log-probabilities."""
    import backends
    from backends.interface import RolloutRequest, Sampling
    from opsd_cli.config.schema import Config

    config = Config(model=str(model), adapter=str(adapter), train={"dtype": "float32"})
    policy = backends.get(backend).load(config, trainable=False)
    tokenizer: Any = policy.tokenizer  # with more than prompts need
    text = tokenizer.render_chat([{"role": "user", "content": "1+2"}], True)
    prompt = tuple(tokenizer.encode(text))
    request = RolloutRequest("p", 0, prompt, 0)
    drawn = next(iter(policy.generate([request], Sampling(max_new_tokens=3))))
    tokenizer.decode(drawn.completion_ids)
    _ = tokenizer.end_of_turn, tokenizer.pad_id, tokenizer.control_tokens, policy.description
    scores = policy.score([(prompt, (5, 6, 7, 8))])[0]
    return np.array([*prompt, *drawn.completion_ids, *sorted(policy.stop_ids), *scores])


def judged(backend: str, model: Path, adapter: Path, wanted: np.ndarray) -> tuple[str, str]:
    """The kind of outcome, and the error."""
    from opsd_cli.errors import OpsdError

    try:
        found = use(backend, model, adapter)
    except OpsdError as error:
        lines = (error.message, error.hint)
        clear = all(line and "\n" not in line and len(line) < 700 for line in lines)
        return "refused" if clear else "unexpected", f"{error.message} -- {error.hint}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "unexpected", f"{type(error).__name__}: {error}"
    same = found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-5)
    return "the same" if same else "different", ""


def fuzz(backend: str, cases: int, seed: int) -> list[Outcome]:
    """Outcomes of so many cases."""
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model, adapter = undamaged(root / "whole")
        wanted = use(backend, model, adapter)
        for case in range(cases):
            draw = random.Random(f"{seed}/{case}")
            copy = root / "case"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(root / "whole", copy)
            file, how = damage(copy / "model", copy / "adapter", draw)
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            kind, said = judged(backend, copy / "model", copy / "adapter", wanted)
            faulthandler.cancel_dump_traceback_later()
            if kind in ("the same", "different") and how in SEEN:
                kind, said = "unexpected", "it was not noticed"
            outcomes.append(Outcome(file, how, kind, said.replace(str(copy), "")))
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Counts by file."""
    kinds = ("the same", "different", "refused", "unexpected")
    rows: list[tuple[str, ...]] = [("file", "tried", *kinds)]
    for file in (*SMALL_FILES, *WEIGHTS, "all"):
        counts = Counter(o.kind for o in outcomes if file in (o.file, "all"))
        rows.append((file, str(sum(counts.values())), *(str(counts[kind]) for kind in kinds)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--show", action="store_true", help="print every case")
    given = parser.parse_args()
    outcomes = fuzz(given.backend, given.cases, given.seed)
    for number, o in enumerate(outcomes):
        if given.show or o.kind == "unexpected":
            print(f"{number}: {o.file}: {o.damage}: {o.kind}: {o.said}")
    print(table(outcomes))
    sys.exit(any(o.kind == "unexpected" for o in outcomes))


if __name__ == "__main__":
    main()
