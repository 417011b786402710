"""Text that a policy reads without sampling: a few sequences at a time, with progress and an end.

Sampling reports each finished rollout and can be stopped after it. What only reads
(log-probabilities, divergences) is cut into parts, after each of which the progress is reported and
the user's wish to stop is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from backends.interface import PLAIN, Policy, Sampling, TeacherWeights
from opsd_cli.errors import Interrupted
from opsd_cli.interruption import Stop, never
from opsd_cli.tracking.listener import Listener

Item = TypeVar("Item")
#: Sequences that are read in one call of a policy, to bound the memory of the call and the time
#: until a wish to stop is noticed.
AT_ONCE = 16


@dataclass
class Reading:
    """Where the reading of a measurement is reported, and what stops it.

    Attributes:
        label: the name of the measurement, which the names of its phases begin with.
        stop: polled after each part but the last.
    """

    label: str = ""
    listener: Listener = field(default_factory=Listener)
    stop: Stop = never
    _lengths: tuple[int, ...] = ()
    _done: int = 0

    def begin(self, phase: str, lengths: Sequence[int]) -> None:
        """A phase begins.

        Args:
            lengths: tokens of each item that is to be read in it.
        """
        self._lengths, self._done = tuple(lengths), 0
        self.listener.phase(phase, len(lengths))

    def parts(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """The next items of the phase, in parts; a part is read before the next one is asked for.

        Raises:
            Interrupted: `stop` returned True after a part.
        """
        for start in range(0, len(items), AT_ONCE):
            part = items[start : start + AT_ONCE]
            yield part
            self._done += len(part)
            self.listener.advance(len(part))
            self.listener.learning(sum(self._lengths[: self._done]), sum(self._lengths))
            if self._done < len(self._lengths) and self.stop():
                raise Interrupted(
                    f"stopped after reading {self._done:,} of {len(self._lengths):,} sequences"
                )

    def scores(
        self,
        policy: Policy,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        """As `Policy.score` of the next sequences of the phase; raises as `parts`."""
        return [
            scores_N
            for part in self.parts(sequences)
            for scores_N in policy.score(part, role, teacher, sampling)
        ]
