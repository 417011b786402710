"""The model card of an export: what was trained on what, how well it does, and how to ask it.

`README.md` in an exported folder, in the form that the Hugging Face hub shows. What it says of the
training is read from the run that the adapter comes from; of another adapter's training it says
that nothing is known. The code in it renders the prompt as training rendered it.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsd_cli import usage_code
    from opsd_cli.config.schema import Config
    from opsd_cli.training.result import TrainResult

CARD = "README.md"
#: A model for Ollama, in a merged export.
MODELFILE = "Modelfile"
#: What goes on with a merged model outside of Python; docs/export.md has the same.
_CONVERT = """## GGUF, Ollama, LM Studio

llama.cpp converts the folder; the file keeps the chat template. The conversion needs other versions
of torch and transformers than opsd, so it gets an environment of its own.

```sh
{download}git clone https://github.com/ggml-org/llama.cpp
python3 -m venv gguf-env
gguf-env/bin/pip install -r llama.cpp/requirements/requirements-convert_hf_to_gguf.txt
gguf-env/bin/python llama.cpp/convert_hf_to_gguf.py {directory} \\
    --outfile {directory}/model.gguf --outtype auto
llama-server -m {directory}/model.gguf --port 8000  # answers the request above
ollama create {name} -f {directory}/Modelfile && ollama run {name} 'a question'
lms import --copy {directory}/model.gguf
```

The `Modelfile` holds the prompt and the sampling of training: each question is asked alone, with
nothing around it. LM Studio takes the chat template from the file: write the prompt above, worked
examples included, around the question there."""


def write_card(
    folder: Path,
    config: Config,
    library: str,
    directory: Path,
    caution: str | None = None,
    repository: str | None = None,
) -> None:
    """Write an export's `README.md`, unless the folder has one.

    Args:
        folder: the export, complete but for its card.
        config: with the exported adapter.
        library: the one that loads the export, as `opsd_cli.usage_code.programs` takes it.
        directory: where the folder will be, as the code in the card names it.
        caution: why the library would answer wrongly with this base model; there is then no code
            for it, but the command that writes a merged model.
        repository: ORG/NAME where it will be on the hub; the code then names this.

    Raises:
        OSError: it cannot be written.
    """
    if not (folder / CARD).exists():
        converted = (folder / MODELFILE).exists()
        text = card(config, library, directory, caution, repository, converted)
        (folder / CARD).write_text(text, encoding="utf-8")


def card(
    config: Config,
    library: str,
    directory: Path,
    caution: str | None = None,
    repository: str | None = None,
    modelfile: bool = False,
) -> str:
    """The text of a model card; the arguments are those of `write_card`.

    Args:
        modelfile: whether the export has a file for Ollama.
    """
    from opsd_cli import usage_code
    from opsd_cli.adapters import run_of

    assert config.adapter is not None
    run, trained = run_of(Path(config.adapter)), training_config(config)
    use = use_of(config, trained, repository or str(directory), repository is not None)
    parts = [_metadata(config, library), f"# {use.name}"]
    parts += [_facts(config, trained, run)]
    if trained is not None:
        parts += [_prompt(trained), *_worked_examples(use)]
    parts += ["## Use", *([f"**Caution:** {caution}"] if caution else [])]
    if repository is None and not directory.is_absolute():
        parts += [
            f"Run this where `opsd export` ran: it reads the folder `{directory}` from there."
        ]
    if caution:
        parts += [
            "A merged model is read rightly; this writes one:",
            _fenced(merging(config), "sh"),
        ]
        return "\n\n".join(parts) + "\n"
    for heading, code in usage_code.programs(use, library).items():
        parts += [f"### {heading}", _fenced(code, "python")]
    served = usage_code.serve(use, library)
    if served is not None:
        parts += ["A server, and a question to it:", _fenced(served, "sh")]
    if modelfile:
        parts += [_conversion(use)]
    return "\n\n".join(parts) + "\n"


def _conversion(use: usage_code.Use) -> str:
    """How to go on to GGUF, from a folder or from the hub."""
    name, download = shlex.quote(use.name), ""
    directory = shlex.quote(use.directory)
    if use.on_hub:
        directory, download = name, f"hf download {directory} --local-dir {name}\n"
    return _CONVERT.format(directory=directory, name=name, download=download)


def merging(config: Config) -> str:
    """The command that merges the config's adapter into its model."""
    base = f" --model {shlex.quote(config.model)}"
    return f"opsd export {shlex.quote(str(config.adapter))} --format merged{base}"


def training_config(config: Config) -> Config | None:
    """The config of the run that a config's adapter comes from; None for another adapter."""
    from opsd_cli.adapters import run_of
    from opsd_cli.config.resolve import resolve
    from opsd_cli.training.layout import CONFIG

    run = run_of(Path(config.adapter or ""))
    return resolve(base=run / CONFIG) if run is not None else None


def use_of(
    config: Config, trained: Config | None, directory: str, on_hub: bool = False
) -> usage_code.Use:
    """What the code for an export needs to know; see `opsd_cli.usage_code.Use`."""
    from opsd_cli import usage_code
    from opsd_cli.adapters import ADAPTER_CONFIG
    from opsd_cli.evaluation.evaluate import evaluation_sampling
    from opsd_cli.files.json_files import read_object
    from opsd_cli.trained_prompt import trained_prompt

    settings = read_object(Path(config.adapter or "") / ADAPTER_CONFIG) or {}
    rank = settings.get("r")
    use = usage_code.Use(
        name=Path(directory).name,
        base=config.model_path,
        directory=directory,
        sampling=evaluation_sampling(trained or config),
        rank=rank if isinstance(rank, int) else config.lora.rank,
        on_hub=on_hub,
    )
    if trained is None:
        return use
    prompt = trained_prompt(config, trained)
    return replace(
        use,
        template=prompt.template.text,
        system=prompt.template.system,
        chat_arguments=prompt.template.arguments,
        examples=prompt.template.examples,
        tokenizer=prompt.tokenizer,
        unknown=prompt.unknown,
    )


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
            *_teacher(trained),
            *_results(Path(config.adapter or ""), trained, run),
        ]
    return "\n".join([*lines, f"- Exported by opsd {__version__}"])


def _teacher(trained: Config) -> list[str]:
    """The model that taught, where it was another one, and what it read beside the question."""
    from opsd_cli.methods import teacher_model
    from opsd_cli.prompts.references import shown_reference

    if teacher_model(trained) is None:
        return []
    reference = shown_reference(trained.teacher.reference)
    return [f"- Teacher: `{trained.teacher.model}`; its reference: `{reference}`"]


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
    elif not result.accuracy:
        accuracy = _held_out(result, label)
    else:
        accuracy = (
            f"- Accuracy on the test split (95% interval): {percent(result.accuracy[label])}; "
            f"before training {percent(result.accuracy['base'])}; "
            f"{trained.evaluation.samples} sampled per problem, temperature "
            f"{trained.evaluation.temperature:g}"
        )
    return [f"{line} of {result.steps}{untrained}", accuracy]


def _held_out(result: TrainResult, label: str) -> str:
    """What was measured of a checkpoint of a run in which nothing is graded."""
    from opsd_cli.formatting import nats

    found = {
        "divergence from the teacher": result.divergence,
        "log-probability of the solutions": result.reference_log_prob,
    }
    parts = [
        f"{name} {nats(values[label])}; before training {nats(values['base'])}"
        for name, values in found.items()
        if values
    ]
    measured = f", in nats a token: {'; '.join(parts)}" if parts else ": nothing"
    return f"- Measured on the test split (95% interval){measured}; nothing was graded"


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


def _worked_examples(use: usage_code.Use) -> list[str]:
    """The turns before the question, and the strings that end an answer, for people to read."""
    parts: list[str] = []
    if use.unknown is not None:
        parts += [
            "Worked examples come before the question. They could not be read when this was "
            f"exported ({use.unknown}), so the prompt is not complete here, and there is no code."
        ]
    if use.examples:
        form = "plain text, a blank line after each" if use.plain else "turns of the chat"
        parts += [f"Worked examples before the question, as {form}:"]
    for number, (asked, answer) in enumerate(use.examples, 1):
        parts += [f"{number}. User:", _fenced(asked), "Assistant:", _fenced(answer)]
    if use.sampling.stop:
        named = ", ".join(f"`{stop!r}`" for stop in use.sampling.stop)
        parts += [f"An answer ends before the first of these strings: {named}."]
    return parts


def _fenced(text: str, language: str = "") -> str:
    """Text in a fence that is longer than any within it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
