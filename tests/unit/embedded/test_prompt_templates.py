"""The embedded model gets the prompts that it was pretrained on, whatever the config defaults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.embedded import MODEL_DIR, prompt_templates
from opsd_cli.embedded.corpus import Shares, documents
from opsd_cli.errors import ConfigError
from opsd_cli.evaluation.evaluate import evaluation_view
from opsd_cli.problems.arithmetic import Split
from opsd_cli.problems.sources import embedded
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import Prompt, Tokenizer

#: Of the first 25 problems' prompts, text and token ids, as the model was released: the student's,
#: the teacher's, and the request for an analysis.
RECORDED: dict[Split, tuple[str, str, str]] = {
    "train": (
        "b9a81e1a2cf72edf7448b63865520fff",
        "726f1e2f8f4a24a9a21876c4c1b33446",
        "3ffbe2e4605117ec34f8292c1d9d114a",
    ),
    "validation": (
        "4c9f13b051b5be0fc94aa4a32457c2ed",
        "a80a147dbb0abde164717039b28266df",
        "712a3accfc8e1e58ea6c137ff592e645",
    ),
    "test": (
        "adcaf079aa480ee02a6d282796113095",
        "6ec4d8d197c7c7bac3970aef78f37879",
        "1a8dcb46758b50286961a8535fd744ec",
    ),
}
#: Of the first 50 documents of its corpus.
RECORDED_CORPUS = "cb734c4c11835d5147057b26c1452bc4"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from transformers import AutoTokenizer

    from backends.shared.tokenizer import HuggingFaceTokenizer

    return HuggingFaceTokenizer(AutoTokenizer.from_pretrained(str(MODEL_DIR)))


def digest(prompts: Iterable[Prompt]) -> str:
    whole = hashlib.sha256()
    for prompt in prompts:
        shown = [prompt.text, list(prompt.ids), prompt.opening, prompt.shortened]
        whole.update(json.dumps(shown).encode())
    return whole.hexdigest()[:32]


@pytest.mark.parametrize("method", ["opsd", "grpo", "sft", "hybrid"])
@pytest.mark.parametrize("preset", [None, "embedded", "embedded-long"])
def test_rendered_prompts_are_those_of_the_release(
    preset: str | None, method: str, tokenizer: Tokenizer
) -> None:
    config = resolve(preset, [], {"method": method})
    builder = PromptBuilder(config, tokenizer)
    evaluated = PromptBuilder(evaluation_view(config), tokenizer)
    for split, (student, teacher, analysis) in RECORDED.items():
        problems = embedded(split, 25).problems
        assert digest(map(builder.student, problems)) == student
        assert digest(map(evaluated.student, problems)) == student
        assert digest(map(builder.teacher, problems)) == teacher
        assert digest(map(builder.analysis_request, problems)) == analysis


def test_the_preset_has_the_templates_of_the_corpus() -> None:
    prompts = resolve("embedded").prompts
    assert prompts.student.template == prompt_templates.STUDENT_TEMPLATE
    assert prompts.teacher.template == prompt_templates.TEACHER_TEMPLATE


def test_the_corpus_is_that_of_the_release(tokenizer: Tokenizer) -> None:
    whole = hashlib.sha256()
    drawn = documents(tokenizer, 0, Shares(reference=0.4, drill=0.2), "pretrain")
    for document in islice(drawn, 50):
        whole.update(json.dumps([document.prompt, document.completion]).encode())
    assert whole.hexdigest()[:32] == RECORDED_CORPUS


def test_chat_arguments_of_the_wrong_type_are_refused(
    tokenizer: Tokenizer,
) -> None:
    for wrong in ({"tools": 3}, {"documents": "x", "tools": ["x"]}):
        with pytest.raises(ConfigError, match="chat template refuses") as caught:
            tokenizer.render_chat([{"role": "user", "content": "hi"}], True, **wrong)
        assert "chat_arguments" in caught.value.hint and "\n" not in caught.value.message
