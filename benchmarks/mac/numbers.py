"""bfloat16 against float32 on the same weights, which bfloat16 holds exactly."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mac.models import FULL, TINY, batch_of, policy_of, random_ids, write_model
from benchmarks.proof.recorder import Recorder

#: Allowed: a share of the loss, a cosine, nats.
LOSS_GAP, COSINE, NATS = 0.1, 0.98, 0.1


def measure(record: Recorder) -> None:
    """Loss and gradient, and what rollouts report beside what scoring finds."""
    shape = TINY if record.tiny else {**FULL, "num_hidden_layers": 8}
    vocabulary = shape["vocab_size"]
    rows, lengths = (2, (8, 24, 16)) if record.tiny else (4, (64, 192, 128))
    batch = batch_of(vocabulary, rows, *lengths)
    losses: dict[str, float] = {}
    gradients: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as made:
        write_model(Path(made), shape, dtype="bfloat16")
        for dtype in ("float32", "bfloat16"):
            with record.attempt(dtype=dtype) as row:
                # With beta1 = 0 the first moment that `save` writes is the gradient.
                policy = policy_of(
                    Path(made), train={"dtype": dtype},
                    optimizer={"betas": (0.0, 0.999), "max_grad_norm": 1e9},
                )  # fmt: skip
                losses[dtype] = row["loss"] = policy.accumulate(batch).loss
                row["gradient_norm"] = policy.apply(1e-6)
                gradients[dtype] = first_moments(policy)
                row["rollout_gap_nats"] = gap = rollout_gap(policy, vocabulary, record.tiny)
                record.check(f"{dtype} rollouts report the log-probabilities that scoring finds",
                             gap <= (1e-3 if dtype == "float32" else NATS), gap=gap)  # fmt: skip
    if len(gradients) == 2:
        wide, narrow = losses["float32"], losses["bfloat16"]
        record.check("the losses agree", abs(wide - narrow) <= LOSS_GAP * abs(wide),
                     float32=wide, bfloat16=narrow)  # fmt: skip
        a, b = gradients.values()
        cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        record.check("the gradients point the same way", cosine >= COSINE, cosine=cosine)


def first_moments(policy: Any) -> np.ndarray:
    """All first moments of the optimiser, float64 [adapter's parameters]."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as made:
        policy.save(Path(made))
        state = load_file(Path(made) / "optimizer.safetensors")
    moments = [state[name] for name in sorted(state) if name.startswith("exp_avg.")]
    return np.concatenate([array.ravel().astype(np.float64) for array in moments])


def rollout_gap(policy: Any, vocabulary: int, tiny: bool) -> float:
    """Largest difference in nats between a rollout's log-probabilities and its score."""
    from backends.interface import RolloutRequest, Sampling

    length, new = (8, 8) if tiny else (64, 64)
    requests = [RolloutRequest(str(n), 0, random_ids(vocabulary, length, n), n) for n in range(2)]
    drawn = list(policy.generate(requests, Sampling(max_new_tokens=new)))
    scores = policy.score([(one.request.prompt_ids, one.completion_ids) for one in drawn])
    return max(
        float(np.abs(one.log_probs - found).max()) for one, found in zip(drawn, scores, strict=True)
    )
