"""The model card of an export: what was trained on what, how well it does, and how to ask it.

`README.md` in an exported folder, in the form that the Hugging Face hub shows. What it says of the
training is read from the run that the adapter comes from; of another adapter's training it says
that nothing is known. The code in it renders the prompt as training rendered it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsd_cli.config.schema import Config

CARD = "README.md"
#: The library that loads an export -> its code up to `model` and `tokenizer`.
_LOAD = {
    "peft": """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base!r}
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), {directory!r})
""",
    "transformers": """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({directory!r})
model = AutoModelForCausalLM.from_pretrained({directory!r})
""",
    "mlx": """from mlx_lm import generate, load
from mlx_lm.sample_utils import make_sampler

model, tokenizer = load({base!r}, adapter_path={directory!r})
""",
}
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
print(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
"""
_MLX = """
sampler = make_sampler(temp={temperature}, top_p={top_p}, min_p={min_p}, top_k={top_k})
print(generate(model, tokenizer, ids, max_tokens={tokens}, sampler=sampler))
"""
#: The library that loads an export -> its code that generates an answer.
_GENERATE = {"peft": _TORCH, "transformers": _TORCH, "mlx": _MLX}


def write_card(
    folder: Path, config: Config, library: str, directory: Path, caution: str | None = None
) -> None:
    """Write an export's `README.md`, unless the folder has one.

    Args:
        config: with the exported adapter.
        library: the one that loads the export, a key of `_LOAD`.
        directory: where the folder will be, as the code in the card names it.
        caution: what to know before the export is loaded.

    Raises:
        OSError: it cannot be written.
    """
    if not (folder / CARD).exists():
        text = card(config, library, directory, caution)
        (folder / CARD).write_text(text, encoding="utf-8")


def card(config: Config, library: str, directory: Path, caution: str | None = None) -> str:
    """The text of a model card; the arguments are those of `write_card`."""
    from opsd_cli.adapters import run_of
    from opsd_cli.config.resolve import resolve
    from opsd_cli.training.run_directory import CONFIG

    assert config.adapter is not None
    run = run_of(Path(config.adapter))
    trained = resolve(base=run / CONFIG) if run is not None else None
    parts = [_metadata(config, library), f"# {directory.name}"]
    parts += [_facts(config, trained, run)]
    if trained is not None:
        parts += [_prompt(trained)]
    parts += ["## Use", *([f"**Caution:** {caution}"] if caution else [])]
    parts += [_fenced(_code(config, trained, library, directory), "python")]
    if library == "transformers":
        parts += ["`mlx_lm` and vLLM load this folder as well."]
    return "\n\n".join(parts) + "\n"


def _metadata(config: Config, library: str) -> str:
    """The hub's front matter; a base model that is a folder has no name there."""
    lines = [f"library_name: {library}", "pipeline_tag: text-generation", "tags: [opsd]"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", config.model) and not config.is_local:
        lines.insert(0, f"base_model: {config.model}")
    return "\n".join(["---", *lines, "---"])


def _facts(config: Config, trained: Config | None, run: Path | None) -> str:
    """The training as a list: base model, data, method, steps, accuracy."""
    from opsd_cli import __version__

    lines = [f"- Base model: `{config.model}`"]
    if config.revision:
        lines.append(f"- Revision of the base model: `{config.revision}`")
    if trained is None or run is None:
        lines.append("- Training: not known; the adapter does not come from a run of `opsd`")
    else:
        lines += [
            f"- Training data: `{trained.data.train}`",
            f"- Method: `{trained.method}`, LoRA of rank {trained.lora.rank}, seed {trained.seed}",
            *_results(Path(config.adapter or ""), trained, run),
        ]
    return "\n".join([*lines, f"- Exported by opsd {__version__}"])


def _results(adapter: Path, trained: Config, run: Path) -> list[str]:
    """The checkpoint's step, and its accuracy on the test split where that was measured."""
    from opsd_cli.formatting import percent
    from opsd_cli.training.checkpoints import step_of
    from opsd_cli.training.layout import result_of
    from opsd_cli.training.result import TrainResult

    step = step_of(adapter)
    untrained = " (the untrained weights)" if step == 0 else ""
    line = f"- Steps: checkpoint of step {step}"
    try:
        result = TrainResult.from_dict(result_of(run) or {})
    except (KeyError, TypeError):
        unknown = "- Accuracy: the run has no result; it has not finished"
        return [f"{line} of at most {trained.train.steps}{untrained}", unknown]
    label = {0: "base", result.steps: "final", result.best_step: "best"}.get(step or 0)
    if label is None:
        accuracy = "- Accuracy: not measured on the test split for this checkpoint"
    else:
        accuracy = (
            f"- Accuracy on the test split (95% interval): {percent(result.accuracy[label])}; "
            f"before training {percent(result.accuracy['base'])}; "
            f"{trained.evaluation.samples} sampled per problem, temperature "
            f"{trained.evaluation.temperature:g}"
        )
    return [f"{line} of {result.steps}{untrained}", accuracy]


def _prompt(trained: Config) -> str:
    """The student's prompt in training, and that of the measurements where it is another."""
    from opsd_cli.evaluation.evaluate import evaluation_view

    student = trained.prompts.student
    measured = evaluation_view(trained).prompts.student
    parts = [
        "## Prompt",
        "The user turn of training, with the question in place of `{question}`:",
        _fenced(student.template),
    ]
    if student.system:
        parts += ["The system turn:", _fenced(student.system)]
    else:
        parts += ["No system turn was given; a chat template may add one of its own."]
    if student.chat_arguments:
        parts += ["Arguments of the chat template:", _fenced(repr(student.chat_arguments))]
    if measured.template != student.template:
        parts += ["Accuracy was measured with this user turn:", _fenced(measured.template)]
    if measured.chat_arguments != student.chat_arguments:
        parts += [
            "Accuracy was measured with these arguments of the chat template:",
            _fenced(repr(measured.chat_arguments)),
        ]
    return "\n\n".join(parts)


def _code(config: Config, trained: Config | None, library: str, directory: Path) -> str:
    """Python that loads the export and asks it a question, sampled as evaluations sample."""
    from opsd_cli.evaluation.evaluate import evaluation_sampling

    student = (trained or config).prompts.student
    turns = [f'    {{"role": "system", "content": {student.system!r}}},'] if student.system else []
    content = f'{student.template!r}.replace("{{question}}", question)' if trained else "question"
    turns.append(f'    {{"role": "user", "content": {content}}},')
    arguments = f", **{dict(student.chat_arguments)!r}" if trained else ""
    chosen = evaluation_sampling(trained or config)
    sampling = "do_sample=False"
    if chosen.temperature > 0:
        sampling = (
            f"do_sample=True,\n    temperature={chosen.temperature}, top_p={chosen.top_p}, "
            f"top_k={chosen.top_k}, min_p={chosen.min_p or None},"
        )
    return (
        _LOAD[library].format(base=config.model_path, directory=str(directory))
        + _ASK.format(turns="\n".join(turns), arguments=arguments)
        + _GENERATE[library].format(
            tokens=chosen.max_new_tokens,
            sampling=sampling,
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            top_k=chosen.top_k,
            min_p=chosen.min_p,
        )
    ).rstrip("\n")


def _fenced(text: str, language: str = "") -> str:
    """Text in a fence that is longer than any within it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
