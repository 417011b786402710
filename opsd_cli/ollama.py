"""A model for Ollama: the prompt of training as Ollama's template, and the sampling.

Ollama renders prompts by a Go template of its own. For one question it is the text that the model's
chat template gives, with a placeholder where the question goes: system turn, worked examples, the
student's user turn and the head of the answer included. A conversation of several turns is not
covered.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.interface import Policy, Sampling
from opsd_cli.prompts.rendering import Template, student_prompt

#: Stands for the question while the prompt is rendered.
_MARK = "QUESTION-OF-THE-USER"
#: Tokens of context beside the completion's.
_PROMPT_TOKENS = 2048


def modelfile(policy: Policy, template: Template, sampling: Sampling, weights: str) -> str | None:
    """The text of an Ollama Modelfile.

    Args:
        policy: whose tokenizer renders the prompt, and whose stop tokens end an answer.
        template: the student's, with its worked examples.
        sampling: of the evaluations.
        weights: the GGUF file, as the Modelfile names it.

    Returns:
        None if the chat template changes the question, or a Modelfile cannot hold its text or a
        stop string of the sampling.
    """
    tokenizer = policy.tokenizer
    rendered = student_prompt(_MARK, template, tokenizer)
    text = rendered.text
    if text.count(_MARK) != 1 or '"""' in text:
        return None
    if any('"""' in stop or stop.endswith('"') for stop in sampling.stop):
        return None
    prompt = text.removeprefix(tokenizer.bos)  # the converted tokenizer adds it
    go = prompt.replace("{{", '{{"{{"}}').replace(_MARK, "{{ .Prompt }}")
    stops = [tokenizer.decode([token]) for token in sorted(policy.stop_ids)]
    stops = [stop for stop in stops if stop and '"' not in stop] + list(sampling.stop)
    context = len(rendered.ids) if template.examples else 0
    lines = [
        f"FROM ./{weights}",
        f'TEMPLATE """{go}"""',
        *_parameters(sampling, stops, context),
    ]
    return "\n".join(lines) + "\n"


def _parameters(sampling: Sampling, stops: Sequence[str], examples: int) -> list[str]:
    """The lines of the parameters; `examples` is the tokens of a prompt that has some."""
    values = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": 1.0,  # Ollama's default is another
        "num_predict": sampling.max_new_tokens,
        "num_ctx": sampling.max_new_tokens + _PROMPT_TOKENS + examples,
    }
    lines = [f"PARAMETER {key} {value}" for key, value in values.items()]
    return lines + [f"PARAMETER stop {_quoted(stop)}" for stop in stops]


def _quoted(text: str) -> str:
    """A value as a Modelfile takes it: as it stands, line breaks included, with no escapes."""
    return f'"""{text}"""' if '"' in text else f'"{text}"'
