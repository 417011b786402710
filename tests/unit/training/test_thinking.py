"""The warning about distilling a student that thinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.schema import Config
from opsd_cli.errors import Interrupted
from opsd_cli.training.run_directory import Run
from opsd_cli.training.thinking import thinking_warning
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy, StopAfter
from tests.support.small_problems import SPLITS
from tests.support.small_tokenizers import CharacterTokenizer


class WithoutThinking(CharacterTokenizer):
    """A chat template without a thinking mode."""

    def render_chat(self, messages: Any, generation_prompt: bool, **_: Any) -> str:
        return super().render_chat(messages, generation_prompt)


def config_of(arguments: dict[str, Any], method: str = "opsd", **train: Any) -> Config:
    prompts = {"student": {"chat_arguments": arguments}}
    return Config.model_validate({"method": method, "prompts": prompts, "train": train})


def test_thinking_student_is_warned_of_with_sources_and_advice() -> None:
    warning = thinking_warning(config_of({}), CharacterTokenizer)
    assert warning is not None and "\n" not in warning
    for part in ("2607.05184", "17%", "2605.06188", "chat_arguments", "learn_from=correct"):
        assert part in warning
    chosen = thinking_warning(config_of({}, learn_from="correct"), CharacterTokenizer)
    assert chosen is not None and "learn_from=correct" not in chosen and "held-out" in chosen


@pytest.mark.parametrize("method", ["grpo", "sft", "hybrid"])
def test_thinking_student_of_another_method_is_not_warned_of(method: str) -> None:
    assert thinking_warning(config_of({}, method), CharacterTokenizer) is None


def test_thinking_depends_on_the_template_and_the_config() -> None:
    on, off = {"enable_thinking": True}, {"enable_thinking": False}
    assert thinking_warning(config_of(on), CharacterTokenizer) is not None
    assert thinking_warning(config_of(off), CharacterTokenizer) is None
    assert thinking_warning(config_of(on), WithoutThinking) is None
    # Without the tokenizer, only a mode that the config names is known to exist.
    assert thinking_warning(config_of(on), lambda: None) is not None
    assert thinking_warning(config_of({}), lambda: None) is None


def test_run_warns_of_thinking_once_at_its_start(tmp_path: Path) -> None:
    class Heard(StopAfter):
        def __init__(self, step: int) -> None:
            super().__init__(step)
            self.warnings: list[str] = []

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    config = config_of({}, steps=2, questions_per_step=2, evaluate_every=1, patience=None)
    begun, resumed = Heard(1), Heard(9)
    with (
        Run.create(tmp_path / "run", config, {"packages": {}}) as run,
        pytest.raises(Interrupted),
    ):
        train(FakePolicy(), SPLITS, run, begun, begun)
    with Run.resume(tmp_path / "run") as run:
        train(FakePolicy(), SPLITS, run, resumed, resumed)
    assert ["the student thinks" in text for text in begun.warnings].count(True) == 1
    assert not any("the student thinks" in text for text in resumed.warnings)
