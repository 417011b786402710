"""Items of a small divergence batch, and its loss as the dense oracle computes it."""

from __future__ import annotations

from torch import Tensor

from backends.interface import DivergenceBatch, DivergenceItem
from tests.support import oracle

EOS = 0
#: Ragged on both sides; a completion of one token; completions that end on EOS, and one that is
#: nothing else; the last ends at the limit, without EOS.
ITEMS = (
    DivergenceItem((5, 6, 7), (8, 9, 10, 11, 5, 6), (12, 13, 14, EOS), 0.5),
    DivergenceItem((4,), (9, 4), (EOS,), 1.0),
    DivergenceItem((20, 21, 22, 23, 24, 25), (3,), (7,), 0.25),
    DivergenceItem((15, 16), (15, 16, 17), (18, 19, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), 2.0),
)


def dense_loss(
    batch: DivergenceBatch, student: oracle.Dense, teacher: oracle.Dense
) -> tuple[list[Tensor], Tensor]:
    """Per-token values of each item ([N] in nats), and the weighted sum over the batch."""
    values = [
        oracle.divergence(
            student.logits(item.student_prompt, item.completion),
            teacher.logits(item.teacher_prompt, item.completion),
            batch.spec,
        )
        for item in batch.items
    ]
    weighted = [item.weight * v.sum() for item, v in zip(batch.items, values, strict=True)]
    return values, sum(weighted[1:], weighted[0])
