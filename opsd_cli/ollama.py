"""A model for Ollama: the prompt of training as Ollama's template, and the sampling.

Ollama renders prompts by a Go template of its own. For one question it is the text that the model's
chat template gives, with a placeholder where the question goes: system turn, worked examples, the
student's user turn and the head of the answer included. A conversation of several turns is not
covered.
"""

from __future__ import annotations

import itertools
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
    if not all(map(_holds, sampling.stop)):
        return None
    prompt = text.removeprefix(tokenizer.bos)  # the converted tokenizer adds it
    go = "{{ .Prompt }}".join(map(_go, prompt.split(_MARK)))
    stops = [tokenizer.decode([token]) for token in sorted(policy.stop_ids)]
    stops = [stop for stop in stops if stop and '"' not in stop and _holds(stop)]
    stops += sampling.stop
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
        "repeat_penalty": 1.0,  # older versions of Ollama have 1.1 as their default
        "num_predict": sampling.max_new_tokens,
        "num_ctx": sampling.max_new_tokens + _PROMPT_TOKENS + examples,
    }
    lines = [f"PARAMETER {key} {value}" for key, value in values.items()]
    return lines + [f"PARAMETER stop {_quoted(stop)}" for stop in stops]


def _go(text: str) -> str:
    """Text as a Go template in a Modelfile that gives this text.

    Ollama drops the characters of a Modelfile that do not print, no-break spaces and the joiners of
    emoji among them, so they are written as escapes. A brace that stands before an action, or
    before another brace, would be read with it.
    """
    parts = []
    for special, run in itertools.groupby(text, lambda letter: letter == "{" or _dropped(letter)):
        part = "".join(run)
        parts.append(part)
        if special and part != "{":
            parts[-1] = '{{"' + "".join(map(_escaped, part)) + '"}}'
    if parts and parts[-1] == "{":  # what follows is the question's action
        parts[-1] = '{{"{"}}'
    return "".join(parts)


def _escaped(letter: str) -> str:
    """A character in a string of Go's."""
    return f"\\U{ord(letter):08x}" if _dropped(letter) else letter


def _dropped(letter: str) -> bool:
    """Whether Ollama leaves a character of a Modelfile out."""
    return not letter.isprintable() and letter not in "\n\r\t"


def _holds(stop: str) -> bool:
    """Whether a Modelfile can hold a stop string."""
    return '"""' not in stop and not stop.endswith('"') and not any(map(_dropped, stop))


def _quoted(text: str) -> str:
    """A value as a Modelfile takes it: as it stands, line breaks included, with no escapes."""
    return f'"""{text}"""' if '"' in text else f'"{text}"'
