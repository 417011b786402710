"""Another model as the teacher (`teacher.model`): a second, frozen policy beside the student's.

It is loaded by the student's own backend, in the same dtype, at the first call that needs it, or
with the student where a run trains. Its hidden states have its own size D, and its own output head
turns them into logits, chunk by chunk beside the student's (`loss_head.py` of the backend).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from backends.interface import Observer, Rollout, RolloutRequest, Sampling
from backends.shared.policy_protocols import SplitModel
from backends.shared.tokenizer import HuggingFaceTokenizer
from backends.shared.vocabulary import require_rows, require_same_vocabulary
from opsd_cli.config.schema import Config
from opsd_cli.errors import TrainingError, UsageError


class HasTeacherModel:
    """The part of `PolicyBase` that knows of a second model."""

    config: Config
    tokenizer: HuggingFaceTokenizer
    _split_model: SplitModel
    _stop_ids: frozenset[int]
    _observer: Observer | None
    _teacher_model: Any = None

    def load_teacher_model(self) -> Any:
        """The policy of `teacher.model`, of the backend's own class, loaded if it is not yet.

        Raises:
            ModelError: it cannot be loaded, or has another vocabulary.
            TrainingError: the config names none.
            UsageError: the backend cannot do what `teacher.quantize` asks for.
        """
        if self._teacher_model is None:
            config = self.config.teacher_config
            if config is None:
                raise TrainingError("there is no other model to teach", "set teacher.model")
            teacher = self._load_teacher(config, self.config.teacher.quantize)
            self._require_comparable(teacher)
            self._teacher_model = teacher
        return self._teacher_model

    @property
    def teacher_parameters(self) -> int:
        """Parameters of the second model that is loaded; 0 without one."""
        return 0 if self._teacher_model is None else int(self._teacher_model.parameter_count)

    @property
    def _taught_by(self) -> str:
        """What `description` adds for a second model."""
        if self._teacher_model is None:
            return ""
        return f"; teacher {self.config.teacher.model}: {self._teacher_model.description}"

    def _generated_by_model(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Iterator[Rollout]:
        """Completions sampled by the second model, ended by a stop token of the student's."""
        teacher = self.load_teacher_model()
        teacher.observe(self._observer)
        return as_student_ends(
            teacher.generate(requests, sampling), self._stop_ids, teacher.stop_ids
        )

    def _load_teacher(self, config: Config, quantize: str) -> Any:
        """A frozen policy of the config's model, its weights quantised as `teacher.quantize` says.

        Raises:
            UsageError: the backend cannot load one, or cannot quantise.
        """
        raise UsageError(
            f"backend {self.config.backend} cannot load teacher.model beside the student",
            "leave teacher.model out, or use another backend",
        )

    def _require_comparable(self, teacher: Any) -> None:
        """Check that both score the same ids, and leave out the teacher's rows beyond them."""
        names = (self.config.model, teacher.config.model)
        ours, theirs = self.tokenizer.wrapped, teacher.tokenizer.wrapped
        require_same_vocabulary(ours.get_vocab(), theirs.get_vocab(), *names)
        own = self._split_model.vocabulary
        require_rows(own, teacher._split_model.vocabulary, *names)
        teacher._split_model.narrow(own)


def as_student_ends(
    rollouts: Iterator[Rollout], student: frozenset[int], teacher: frozenset[int]
) -> Iterator[Rollout]:
    """A teacher's rollouts, ended by a stop token of the student's.

    Text is read by the student's stop ids; a teacher's own would stay in it as part of the answer.
    The log-probability stays that of the sampled token.

    Args:
        rollouts: sampled by the teacher.
        student: the student's stop ids.
        teacher: the teacher's.
    """
    for rollout in rollouts:
        ids = rollout.completion_ids
        if student and ids and ids[-1] in teacher and ids[-1] not in student:
            rollout = dataclasses.replace(rollout, completion_ids=(*ids[:-1], min(student)))
        yield rollout
