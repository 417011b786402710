"""Every token counted, by kind, the same way for every method.

Comparisons between methods fail when each counts its own way, so the kinds are fixed here:

- `generated`: sampled by the student in training rollouts (and by a reason-first teacher);
- `teacher_scored`: positions in the teacher's forward passes, its prompts included;
- `prompt`: prompt tokens fed to the sampler, once for each rollout;
- `trained`: positions in the student's forward passes with gradient, prompts included;
- `scored`: positions in other forward passes without gradient (old, initial and student
  log-probabilities), prompts included.

Preflight and evaluation spend tokens too; they are the same for every method and kept apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TokenLedger:
    """Token counts so far. Adding two ledgers adds kind by kind."""

    generated: int = 0
    teacher_scored: int = 0
    prompt: int = 0
    trained: int = 0
    scored: int = 0
    evaluation: int = 0
    rollouts: int = 0

    def __add__(self, other: TokenLedger) -> TokenLedger:
        return TokenLedger(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
