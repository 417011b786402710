"""The code in a model card: how to ask an exported model a question, program by program.

Each piece renders the student's prompt of training and samples as evaluations do. The prompt is
made by the tokenizer's chat template and given as token ids, so that no program adds to it; a
server (`vllm serve`) renders it with the same template. Worked examples (`prompts.few_shot`) are
turns before the question, and an answer ends before the stop strings of the sampling.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backends.interface import Sampling
from opsd_cli.prompts.rendering import Template, student_prompt

if TYPE_CHECKING:
    from backends.shared.tokenizer import HuggingFaceTokenizer


@dataclass(frozen=True)
class Use:
    """What the code needs to know of an export.

    Attributes:
        name: of the export, for people and for a server.
        base: the base model, a folder or hub id.
        directory: the export, a folder or hub id.
        sampling: of the evaluations.
        rank: of the adapter.
        template: the student's user turn with `{question}`; None if it is not known.
        system: the student's system turn.
        chat_arguments: of the chat template.
        on_hub: whether `directory` is a hub id.
        examples: question and answer of each worked example before the question.
        tokenizer: of the base model; None if it is not at hand. Without it the model is taken to
            have a chat template.
        unknown: why the prompt of training is not known; None if it is. No code is made then.
    """

    name: str
    base: str
    directory: str
    sampling: Sampling
    rank: int
    template: str | None = None
    system: str | None = None
    chat_arguments: Mapping[str, Any] = field(default_factory=dict)
    on_hub: bool = False
    examples: tuple[tuple[str, str], ...] = ()
    tokenizer: HuggingFaceTokenizer | None = None
    unknown: str | None = None

    @property
    def plain(self) -> bool:
        """True if the model is known to have no chat template: its turns are plain text."""
        return self.tokenizer is not None and not self.tokenizer.has_chat_template


@dataclass(frozen=True)
class _Python:
    """A program's code: up to `tokenizer`, and from `ids` to the printed answer."""

    load: str
    generate: str


#: Without a chat template the turns are sent as plain text, as training sends them.
_ASK = """
question = "..."
messages = [
{turns}
]
chat = tokenizer.chat_template is not None
if chat:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True{arguments}
    )
else:
    text = "".join(message["content"] + "\\n\\n" for message in messages)
ids = tokenizer.encode(text, add_special_tokens=not chat)
"""
_TORCH = """
import torch

ids = torch.tensor([ids])
output = model.generate(
    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens={tokens}, {sampling}
)
answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
{cut}print(answer)
"""
_MLX_LM = """
sampler = make_sampler(temp={temperature}, top_p={top_p}, min_p={min_p}, top_k={top_k})
answer = generate(model, tokenizer, ids, max_tokens={tokens}, sampler=sampler)
{cut}print(answer)
"""
_VLLM = """
sampling = SamplingParams(
    temperature={temperature}, top_p={top_p}, top_k={top_k}, min_p={min_p},
    max_tokens={tokens}{stop},
)
outputs = llm.generate({{"prompt_token_ids": ids}}, sampling{lora})
print(outputs[0].outputs[0].text)
"""
_PEFT = _Python(
    """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base!r}
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), {directory!r})
""",
    _TORCH,
)
_TRANSFORMERS = _Python(
    """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({directory!r})
model = AutoModelForCausalLM.from_pretrained({directory!r})
""",
    _TORCH,
)
_MLX_ADAPTER = _Python(
    """{download}from mlx_lm import generate, load
from mlx_lm.sample_utils import make_sampler

model, tokenizer = load({base!r}, adapter_path={folder})
""",
    _MLX_LM,
)
_MLX_MODEL = _Python(
    """from mlx_lm import generate, load
from mlx_lm.sample_utils import make_sampler

model, tokenizer = load({directory!r})
""",
    _MLX_LM,
)
_VLLM_ADAPTER = _Python(
    """from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

llm = LLM({base!r}, enable_lora=True, max_lora_rank={lora_rank})
tokenizer = llm.get_tokenizer()
""",
    _VLLM.replace("{lora}", ",\n    lora_request=LoRARequest({name!r}, 1, {directory!r}),\n"),
)
_VLLM_MODEL = _Python(
    """from vllm import LLM, SamplingParams

llm = LLM({directory!r})
tokenizer = llm.get_tokenizer()
""",
    _VLLM.replace("{lora}", ""),
)
_SERVE_ADAPTER = """vllm serve {base} --enable-lora --max-lora-rank {lora_rank} \\
    --lora-modules {name}={directory}
"""
_SERVE_MODEL = """vllm serve {directory} --served-model-name {name}
"""
_REQUEST = """curl http://localhost:8000/v1/{path} -H 'Content-Type: application/json' \\
    -d @- <<'JSON'
{body}
JSON
"""
#: Characters of the longest command that is printed; the code in the card has no limit.
_LONGEST_COMMAND = 4000
#: The library that loads an export -> (heading, Python) of each program that does.
_PROGRAMS: dict[str, tuple[tuple[str, _Python], ...]] = {
    "peft": (("transformers and peft", _PEFT), ("vLLM", _VLLM_ADAPTER)),
    "transformers": (
        ("transformers", _TRANSFORMERS), ("mlx_lm", _MLX_MODEL), ("vLLM", _VLLM_MODEL),
    ),
    "mlx": (("mlx_lm", _MLX_ADAPTER),),
}  # fmt: skip
#: The library -> the command that serves the export over HTTP.
_SERVE = {"peft": _SERVE_ADAPTER, "transformers": _SERVE_MODEL}
#: The library -> the arguments of `mlx_lm.generate` that name the export.
_COMMAND = {
    "mlx": "--model {base} --adapter-path {directory}",
    "transformers": "--model {directory}",
}


def programs(use: Use, library: str) -> dict[str, str]:
    """Heading -> Python that asks the export a question, for each program that loads it.

    Args:
        library: the one that the export is written for, a key of `_PROGRAMS`.
    """
    if use.unknown is not None:
        return {}
    return {heading: _code(use, python) for heading, python in _PROGRAMS[library]}


def serve(use: Use, library: str) -> str | None:
    """Shell commands that serve the export and ask it a question; None if no program does."""
    if library not in _SERVE or use.unknown is not None:
        return None
    sampling = use.sampling
    messages = _messages(use, "...")
    asked: dict[str, Any] = {"messages": messages}
    if use.plain:  # a server refuses turns without a chat template; it puts the BOS first itself
        asked = {"prompt": "".join(message["content"] + "\n\n" for message in messages)}
    body: dict[str, Any] = {
        "model": use.name,
        **asked,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_new_tokens,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if use.chat_arguments and not use.plain:
        body["chat_template_kwargs"] = dict(use.chat_arguments)
    text = json.dumps(body, indent=2, ensure_ascii=False)
    quoted = {key: shlex.quote(str(value)) for key, value in _names(use).items()}
    request = _REQUEST.format(path="completions" if use.plain else "chat/completions", body=text)
    return (_SERVE[library].format(**quoted) + "\n" + request).rstrip("\n")


def command(use: Use, library: str, question: str) -> str | None:
    """A command that asks the export a question; None if no program has one that asks it rightly.

    The question goes through a pipe: in an argument `mlx_lm.generate` reads \\n and \\t as escapes.
    It takes one user turn, so a prompt of several is rendered here; it has no stop strings.
    """
    sampling = use.sampling
    if library not in _COMMAND or use.on_hub or use.unknown is not None or sampling.stop:
        return None
    text: str | None = (use.template or "{question}").replace("{question}", question)
    turns: list[str] = []
    if use.examples or use.plain:
        text, turns = _rendered(use, question), ["--ignore-chat-template"]
        if text is None:
            return None
    else:
        if use.system:
            turns.append(f"--system-prompt {shlex.quote(use.system)}")
        if use.chat_arguments:
            arguments = shlex.quote(json.dumps(dict(use.chat_arguments)))
            turns.append(f"--chat-template-config {arguments}")
    quoted = {key: shlex.quote(str(value)) for key, value in _names(use).items()}
    words = [
        f"printf %s {shlex.quote(str(text))} | mlx_lm.generate",
        _COMMAND[library].format(**quoted),
        *turns,
        f"--temp {sampling.temperature:g} --top-p {sampling.top_p:g}",
        f"--top-k {sampling.top_k} --min-p {sampling.min_p:g}",
        f"--max-tokens {sampling.max_new_tokens} --prompt -",
    ]
    line = " ".join(words)
    return line if len(line) <= _LONGEST_COMMAND else None


def _rendered(use: Use, question: str) -> str | None:
    """The text of the whole prompt, for a program that tokenises it; None if its ids are others."""
    if use.tokenizer is None:
        return None
    template = Template(
        use.template or "{question}", use.system, dict(use.chat_arguments), use.examples
    )
    prompt = student_prompt(question, template, use.tokenizer)
    text = prompt.text.removeprefix(use.tokenizer.bos)  # which the program puts first
    return text if tuple(use.tokenizer.wrapped.encode(text, verbose=False)) == prompt.ids else None


def _messages(use: Use, question: str) -> list[dict[str, str]]:
    """The turns of the prompt, as a chat template takes them."""
    turns = [("system", use.system)] if use.system else []
    for asked, answer in use.examples:
        turns += [("user", asked), ("assistant", answer)]
    turns.append(("user", (use.template or "{question}").replace("{question}", question)))
    return [{"role": role, "content": content} for role, content in turns]


def _code(use: Use, python: _Python) -> str:
    """Python that loads the export and asks it a question."""
    content = "question"
    if use.template is not None:
        content = f'{use.template!r}.replace("{{question}}", question)'
    before = _messages(use, "")[:-1]
    turns = [f'    {{"role": "{m["role"]}", "content": {m["content"]!r}}},' for m in before]
    turns.append(f'    {{"role": "user", "content": {content}}},')
    arguments = f", **{dict(use.chat_arguments)!r}" if use.template is not None else ""
    chosen = use.sampling
    sampling = "do_sample=False"
    if chosen.temperature > 0:
        sampling = (
            f"do_sample=True,\n    temperature={chosen.temperature}, top_p={chosen.top_p}, "
            f"top_k={chosen.top_k}, min_p={chosen.min_p or None},"
        )
    stop = list(chosen.stop)
    if stop:
        sampling = f"{sampling.rstrip(',')},\n    stop_strings={stop!r}, tokenizer=tokenizer,"
    return (
        python.load.format(**_names(use))
        + _ASK.format(turns="\n".join(turns), arguments=arguments)
        + python.generate.format(
            **_names(use),
            tokens=chosen.max_new_tokens,
            sampling=sampling,
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            top_k=chosen.top_k,
            min_p=chosen.min_p,
            stop=f", stop={stop!r}" if stop else "",
            cut=f"for stop in {stop!r}:\n    answer = answer.partition(stop)[0]\n" if stop else "",
        )
    ).rstrip("\n")


def _names(use: Use) -> dict[str, Any]:
    folder = repr(use.directory)
    return {
        "name": use.name,
        "base": use.base,
        "directory": use.directory,
        # mlx_lm takes an adapter from a folder alone.
        "download": "from huggingface_hub import snapshot_download\n" if use.on_hub else "",
        "folder": f"snapshot_download({folder})" if use.on_hub else folder,
        # vLLM takes powers of two from 8 on.
        "lora_rank": 1 << max(3, (use.rank - 1).bit_length()),
    }
