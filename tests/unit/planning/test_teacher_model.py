"""`teacher.model` in the memory plan, and its checks before a run exists and on resuming."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from backends.mlx.traits import MLX
from backends.parallel.sharding import obstacle
from backends.pytorch.traits import CPU
from backends.rollout_engines import samples_here
from backends.shared.vocabulary import require_rows, require_same_vocabulary
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.embedded import MODEL_DIR
from opsd_cli.errors import BackendMissing, ConfigError, ModelError, RunError, UsageError
from opsd_cli.planning.memory_plan import MemoryPlan, Prompts, estimated, plan
from opsd_cli.planning.model_shape import Shape, configured_shape, teacher_shape
from opsd_cli.planning.planned_device import PlannedDevice
from opsd_cli.planning.planned_memory import UnknownMemory, planned_memory
from opsd_cli.planning.teacher_checks import identity, require_same_teacher, require_teacher
from opsd_cli.tracking.listener import Listener

BIG = Shape(
    layers=8, hidden=512, intermediate=1024, heads=8, kv_heads=4, head_dim=64, vocabulary=1024,
    tied=True,
)  # fmt: skip


class Warnings(Listener):
    """Collects the warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def taught(model: Path | str, *settings: str) -> Config:
    return resolve(None, (f"teacher.model={model}", "backend=cpu", *settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return Path(shutil.copytree(MODEL_DIR, tmp_path / "teacher"))


def planned(config: Config, teacher: Shape | None) -> MemoryPlan:
    shape = configured_shape(config)
    assert shape is not None
    return plan(config, shape, Prompts(50, 90), CPU.memory, True, teacher=teacher)


def test_memory_plan_counts_the_second_model() -> None:
    config = taught("embedded", "train.passes=2")
    own, other = planned(config, None), planned(config, BIG)
    assert other.teacher == 4 * BIG.parameters
    assert other.peak >= own.peak + other.teacher
    assert "teacher's weights" in other.parts and "teacher's weights" not in own.parts
    assert other.divergence > own.divergence  # hidden states [N, 512], kept for the second pass
    assert other.rollouts > own.rollouts  # the preflight's, by the larger model
    no_preflight = taught("embedded", "train.passes=2", "preflight.enabled=false")
    assert planned(no_preflight, BIG).rollouts == own.rollouts


def test_memory_plan_of_a_quantised_teacher_and_of_a_method_without_one() -> None:
    whole = teacher_shape(taught("embedded"), CPU.memory)
    assert whole is not None and whole.bits is None
    config = taught("embedded", "teacher.quantize=int4")
    on_torch, on_mlx = (teacher_shape(config, memory) for memory in (CPU.memory, MLX.memory))
    assert on_torch is not None and on_mlx is not None
    assert on_torch.bits == on_mlx.bits == 4.5
    assert planned(config, on_mlx).teacher == whole.parameters * 4.5 / 8
    # PyTorch leaves the embedding in float32, and makes a layer whole while it is applied.
    layers = whole.parameters - whole.embedding
    assert planned(config, on_torch).teacher == layers * 4.5 / 8 + 4 * whole.embedding
    largest = 4 * whole.hidden * whole.intermediate
    passes = [planned(config, shape).teacher_pass for shape in (on_torch, on_mlx)]
    assert passes[0] == passes[1] + largest
    assert teacher_shape(taught("embedded", "method=grpo"), CPU.memory) is None


def test_memory_is_unknown_where_the_teachers_architecture_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = PlannedDevice("cpu", CPU.memory, None, on_cpu=True)
    monkeypatch.setattr(
        "opsd_cli.planning.planned_memory.planned_device", lambda config, devices=1: device
    )
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_experts": 4}))
    assert isinstance(planned_memory(taught(folder), None, Listener()), UnknownMemory)


def test_estimated_prompts_without_a_reference_are_the_students() -> None:
    prompts = estimated(taught("embedded", "teacher.reference=none"), [])
    assert prompts.teacher == prompts.student


def test_teacher_model_of_another_vocabulary_names_the_first_id_that_differs(
    folder: Path,
) -> None:
    require_teacher(taught(folder), Listener())
    text = (folder / "tokenizer.json").read_text()
    vocabulary = json.loads(text)["model"]["vocab"]
    first, second = sorted(vocabulary, key=lambda t: vocabulary[t])[5:7]
    tree: dict[str, Any] = json.loads(text)
    own = tree["model"]["vocab"]
    own[first], own[second] = own[second], own[first]
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match="another vocabulary than embedded") as refused:
        require_teacher(taught(folder), Listener())
    number = min(vocabulary[first], vocabulary[second])
    there, here = (second, first) if vocabulary[first] == number else (first, second)
    assert f"token {number:,} is {there!r} there and {here!r}" in refused.value.message
    assert "1 more ids differ" in refused.value.message
    require_teacher(taught(folder, "method=grpo"), Listener())  # which asks no teacher


def test_vocabulary_of_more_tokens_and_of_fewer_logits() -> None:
    with pytest.raises(ModelError, match="token 1 is 'b' there and no token in the student"):
        require_same_vocabulary({"a": 0}, {"a": 0, "b": 1}, "s", "t")
    require_same_vocabulary({"a": 0, "b": 1}, {"b": 1, "a": 0}, "s", "t")
    require_rows(5, 7, "s", "t")
    with pytest.raises(ModelError, match="t has logits for 4 token ids, and the student s for 5"):
        require_rows(5, 4, "s", "t")


def test_teacher_model_that_ends_a_turn_with_another_token_is_warned_of(folder: Path) -> None:
    warnings = Warnings()
    require_teacher(taught(folder), warnings)
    assert not warnings.said
    template = (folder / "chat_template.jinja").read_text()
    assert "<|im_end|>" in template
    (folder / "chat_template.jinja").write_text(template.replace("<|im_end|>", "<|endoftext|>"))
    require_teacher(taught(folder), warnings)
    assert len(warnings.said) == 1 and "may learn not to end" in warnings.said[0]


def test_teacher_that_is_the_student_and_sees_no_reference_is_refused(folder: Path) -> None:
    for model in ("embedded", folder):  # a copy of its files
        with pytest.raises(ConfigError, match="teacher and student are the same") as refused:
            require_teacher(taught(model, "teacher.reference=none"), Listener())
        assert "larger model" in refused.value.hint
        require_teacher(taught(model), Listener())  # it reads the solutions
    begun = taught("embedded", "teacher.reference=none").model_copy(update={"adapter": "runs/a"})
    require_teacher(begun, Listener())  # a student that has learnt is not its base
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    require_teacher(taught(folder, "teacher.reference=none"), Listener())


def test_quantised_teacher_is_refused_where_the_backend_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = taught("embedded", "teacher.quantize=int8")
    require_teacher(config, Listener())
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(BackendMissing, match="needs bitsandbytes on backend cpu") as missing:
            require_teacher(config, Listener())
    assert missing.value.hint == "pip install bitsandbytes, or leave teacher.quantize out"
    unable = dataclasses.replace(CPU, quantizes=False)
    monkeypatch.setattr("backends.traits_of", lambda name: unable)
    with pytest.raises(UsageError, match=r"teacher\.quantize=int8: backend cpu quantises nothing"):
        require_teacher(config, Listener())


def test_resume_refuses_a_teacher_model_with_other_weights(folder: Path) -> None:
    config = taught(folder)
    recorded = identity(config)
    assert recorded is not None and recorded["model"] == str(folder)
    require_same_teacher(config, recorded)
    require_same_teacher(config, None)
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(RunError, match="has other weights than when this run began"):
        require_same_teacher(config, recorded)
    assert identity(resolve()) is None


def test_teacher_model_is_no_adapter_of_a_rollout_engine() -> None:
    config = taught("embedded", "rollouts.engine=vllm")
    assert samples_here(config, teacher=True) and not samples_here(config, teacher=False)


def test_shard_full_refuses_a_second_model() -> None:
    error = obstacle(taught("embedded", "train.shard=full", "rollouts.engine=vllm"), "cpu")
    assert error is not None and "teacher.model names a second model" in error.message
