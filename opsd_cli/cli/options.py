"""The flags of every command, each with its help text: those of several commands, then the rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from opsd_cli.embedded import EMBEDDED
from opsd_cli.exporting import DTYPES, FORMATS
from opsd_cli.methods import METHODS
from opsd_cli.tracking.trackers import TRACKERS


def _backends() -> list[str]:
    """What `--backend` takes; nothing where the registry is not ours, which `main` refuses."""
    from opsd_cli.errors import UsageError
    from opsd_cli.processes import import_check

    try:
        import_check.require_own_backends()
    except UsageError:
        return []
    import backends

    return list(backends.choices())


def _presets() -> list[str]:
    from opsd_cli.config.presets import preset_names

    return preset_names()


def _benchmarks() -> list[str]:
    from opsd_cli.problems.catalog import BENCHMARKS

    return [EMBEDDED, *BENCHMARKS]


def _sets() -> list[str]:
    from opsd_cli.problems.catalog import BENCHMARKS, TRAINING

    return [*BENCHMARKS, *TRAINING]


def _keys(incomplete: str) -> list[str]:
    from opsd_cli.config.schema import key_paths

    return [f"{path}=" for path, _ in key_paths() if path.startswith(incomplete)]


def _one_of(names: Iterable[str]) -> str:
    """The metavar of an option that takes one of the names of a registry."""
    return "|".join(names)


Config = Annotated[
    list[str] | None,
    typer.Option(
        "--config", "-c", metavar="FILE|PRESET", autocompletion=_presets,
        help="A YAML file, or a preset (see `opsd presets`); of several, later ones override.",
    ),
]  # fmt: skip
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", autocompletion=_keys,
        help="Change one config key; repeatable (see `opsd presets keys`).",
    ),
]  # fmt: skip
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar=_one_of(_backends()),
        autocompletion=_backends,
        help="Where to run.",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices", metavar="N|auto", help="GPUs here (on a CPU: processes) that share the work."
    ),
]
Hosts = Annotated[
    Path | None,
    typer.Option(
        "--hosts", metavar="FILE", help="Macs that share the work: a host file of mlx.launch."
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help=f"`{EMBEDDED}`, a folder, or a hub id."),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter", metavar="DIR", help="A LoRA adapter's folder, or a run's (its best)."
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="best|last|STEP",
        help="Which checkpoint of the run; by default the best on validation.",
    ),
]  # fmt: skip
Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run model code that comes with the weights."),
]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", metavar=_one_of(TRACKERS), help="Copy metrics there; repeatable."),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where to write; a new directory.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Everything random derives from it.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON object on standard output; text for people goes to standard error."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done; write and run nothing.")
]
Probe = Annotated[
    bool,
    typer.Option(
        "--probe", help="With --dry-run: measure a short step on the model, and estimate the time."
    ),
]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="With --dry-run: show every setting too.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Use only the first so many problems.")
]

# -- sample ------------------------------------------------------------------------------------

Question = Annotated[
    str | None, typer.Argument(help="A question; by default problems of the validation split.")
]
QuestionFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Take the questions from a file.")
]
Split = Annotated[
    str, typer.Option("--from", metavar="train|validation|test", help="Which split otherwise.")
]
Sampling = Annotated[
    str,
    typer.Option(
        "--sampling", metavar="evaluation|training",
        help="Temperature and limits of `opsd eval` (`evaluation.*`), or of rollouts "
        "(`sampling.*`).",
    ),
]  # fmt: skip
Completions = Annotated[
    int, typer.Option("--n", "-n", "--samples", min=1, help="Completions a question.")
]
SampledTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", help="Longest completion: max_new_tokens of --sampling's section."
    ),
]
SampledTemperature = Annotated[
    float | None, typer.Option("--temperature", help="Of --sampling's section; 0 is greedy.")
]
Solution = Annotated[
    str | None, typer.Option("--solution", help="The reference solution of a typed question.")
]
Privileged = Annotated[
    bool, typer.Option("--privileged", help="Let the teacher answer, who sees the reference.")
]
Divergence = Annotated[
    bool,
    typer.Option("--divergence", help="Colour each token by how far teacher and student differ."),
]
ShowPrompts = Annotated[
    bool, typer.Option("--show-prompts", help="Print both roles' prompts, exactly.")
]

# -- train -------------------------------------------------------------------------------------

Method = Annotated[
    str | None, typer.Option("--method", metavar=_one_of(METHODS), help="How to learn.")
]
ResumeRun = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out, as if never stopped.")
]
ResumeFrom = Annotated[
    int | None,
    typer.Option(
        "--resume-from", metavar="STEP", min=0,
        help="Go back to this step's checkpoint of the run in --out, and on from there.",
    ),
]  # fmt: skip

PreflightOnly = Annotated[
    bool,
    typer.Option(
        "--preflight-only",
        help="Measure student and teacher, say whether there is something to distil, and end. With "
        "--dry-run, what that takes.",
    ),
]
Sources = Annotated[
    str | None,
    typer.Option(
        "--sources", metavar="A,B",
        help="With --preflight-only: values of teacher.reference to compare with the config's own; "
        "by default all that the data allows.",
    ),
]  # fmt: skip
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of training; sets train.steps.")]
LearningRate = Annotated[
    float | None,
    typer.Option("--lr", help="Peak learning rate; sets optimizer.learning_rate."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", help="Longest completion; sets sampling.max_new_tokens."),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", help="Of training rollouts; sets sampling.temperature."),
]
Batch = Annotated[
    int | None, typer.Option("--batch", help="Questions a step; sets train.questions_per_step.")
]

# -- init --------------------------------------------------------------------------------------

NewConfig = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="The config to write, a new file; else opsd.yaml."),
]
NewConfigOut = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Another spelling of FILE.")
]
TrainOn = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="FILE|SET", autocompletion=_sets,
        help="Problems to train on: a file, a set (see `opsd data`) or a hub id.",
    ),
]  # fmt: skip

# -- eval --------------------------------------------------------------------------------------

Benchmark = Annotated[
    list[str] | None,
    typer.Option(
        "--benchmark", "-b", metavar="NAME|FILE", autocompletion=_benchmarks,
        help="What to measure on: a set (see `opsd data`), a file, or test or validation, the "
        "config's own split (the default for a run); repeatable, or separated by commas.",
    ),
]  # fmt: skip
Samples = Annotated[
    int | None, typer.Option("--samples", "-k", min=1, help="Completions a problem.")
]
EvaluatedTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", help="Longest completion: evaluation.max_new_tokens."),
]
EvaluatedTemperature = Annotated[
    float | None,
    typer.Option("--temperature", help="evaluation.temperature, also if others are recommended."),
]
ResumeEvaluation = Annotated[
    bool, typer.Option("--resume", help="Go on with the evaluation in --out.")
]
Regrade = Annotated[
    bool, typer.Option("--regrade", help="Grade the samples in --out again; draw none.")
]
Against = Annotated[
    Path | None,
    typer.Option("--against", metavar="DIR", help="Pair with another evaluation, by problem."),
]

# -- export, data, presets ---------------------------------------------------------------------

Exported = Annotated[
    str, typer.Argument(metavar="RUN", help="A run (its best checkpoint), or an adapter.")
]
Reported = Annotated[
    Path, typer.Argument(metavar="DIR", help="Of a run, an evaluation or a comparison.")
]
ReportOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Where to write; by default the same DIR."),
]
Format = Annotated[
    str, typer.Option("--format", "-f", metavar=_one_of(FORMATS), help="What to write.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", metavar=_one_of(DTYPES),
        help="Of the weights of a merged model; by default those of the base.",
    ),
]  # fmt: skip
Push = Annotated[
    str | None,
    typer.Option("--push", metavar="ORG/NAME", help="Upload it to the hub too, private."),
]
Public = Annotated[bool, typer.Option("--public", help="With --push: readable by everybody.")]
CheckedSet = Annotated[
    str,
    typer.Argument(metavar="FILE|SET", autocompletion=_sets, help="As `--data` of `opsd init`."),
]
SetName = Annotated[str, typer.Argument(autocompletion=_sets)]
TrainingSet = Annotated[
    bool, typer.Option("--train", help="Where both exist, the set to train on.")
]
PresetName = Annotated[str, typer.Argument(autocompletion=_presets)]
CopyTo = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="A new file; by default NAME.yaml, here.")
]
KeyWord = Annotated[
    str | None,
    typer.Argument(metavar="[WORD]", help="Only keys with this in their name or meaning."),
]
