"""The commands and their flags. Each body lives in a file of its own, imported when it is run, so
that `opsd --help` costs little more than importing Typer.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from opsd_cli import __version__, errors
from opsd_cli.cli import failures, options
from opsd_cli.printable import shortened, visible_line
from opsd_cli.processes import child_processes, import_check

app = typer.Typer(
    name="opsd",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="On-policy self-distillation: a language model teaches itself to reason.\n\n"
    "Every command runs with no other word, on a small embedded model. Start with "
    "[bold]opsd train[/bold].",
)
data_app = typer.Typer(
    invoke_without_command=True,
    help="Data sets and benchmarks by name.",
)
presets_app = typer.Typer(
    invoke_without_command=True, help="List the presets, show one, copy one, or list every key."
)
app.add_typer(data_app, name="data")
app.add_typer(presets_app, name="presets")


#: Characters of an error's line; what is quoted in it may be of any length.
LONGEST_LINE = 1000


def _version(wanted: bool) -> None:
    if wanted:
        print(f"opsd {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def sample(
    question: Annotated[
        str | None, typer.Argument(help="A question; by default problems of the validation split.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Take the questions from a file.")
    ] = None,
    split: Annotated[
        str, typer.Option("--from", metavar="train|validation|test", help="Which split otherwise.")
    ] = "validation",
    limit: options.Limit = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Completions a question.")] = 1,
    solution: Annotated[
        str | None, typer.Option("--solution", help="The reference solution of a typed question.")
    ] = None,
    privileged: Annotated[
        bool, typer.Option("--privileged", help="Let the teacher answer, who sees the reference.")
    ] = False,
    divergence: Annotated[
        bool,
        typer.Option(
            "--divergence", help="Colour each token by how far teacher and student differ."
        ),
    ] = False,
    show_prompts: Annotated[
        bool, typer.Option("--show-prompts", help="Print both roles' prompts, exactly.")
    ] = False,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw completions for a question.

    [dim]opsd sample --divergence[/dim]
    [dim]opsd sample "Start with 12. Add 30. What is the result?" --n 4[/dim]
    """
    from opsd_cli.cli import common, sample

    sample.run(
        common.request(config, set_, backend, model, adapter, seed, json, quiet, dry_run, trust),
        sample.What(
            question=question, file=file, split=split, limit=limit, n=n, solution=solution,
            privileged=privileged, divergence=divergence, show_prompts=show_prompts,
        ),
    )  # fmt: skip


@app.command()
def train(
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="opsd|grpo|sft|hybrid", help="How to learn."),
    ] = None,
    out: options.Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, as if never stopped.")
    ] = False,
    resume_from: Annotated[
        int | None,
        typer.Option(
            "--resume-from",
            metavar="STEP",
            min=0,
            help="Go back to this step's checkpoint of the run in --out, and on from there.",
        ),
    ] = None,
    log: options.Log = None,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Teach a model by on-policy self-distillation.

    [dim]opsd train[/dim]
    [dim]opsd train --config opsd-qwen3-1.7b --set data.train=problems.jsonl --out runs/mine[/dim]
    """
    from opsd_cli.cli import common, train

    train.run(
        common.request(
            config,
            set_,
            backend,
            model,
            adapter,
            seed,
            json,
            quiet,
            dry_run,
            trust,
            method=method,
            log=log,
        ),
        out,
        resume,
        resume_from,
    )


@app.command("eval")
def evaluate(
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            "-b",
            metavar="NAME|FILE",
            autocompletion=options._benchmarks,
            help="What to measure on (see `opsd data`); repeatable, or separated by commas.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", "-k", min=1, help="Completions a problem.")
    ] = None,
    limit: options.Limit = None,
    out: options.Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the evaluation in --out.")
    ] = False,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="Grade the samples in --out again; draw none.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="DIR", help="Pair with another evaluation, by problem."),
    ] = None,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure accuracy: k samples a problem, graded.

    [dim]opsd eval --samples 4[/dim]
    [dim]opsd eval --adapter runs/mine --benchmark aime24,aime25 --samples 16 --out evals/mine[/dim]
    [dim]opsd eval --resume --out evals/mine --against evals/base[/dim]
    """
    from opsd_cli.cli import common, evaluate

    evaluate.run(
        common.request(
            config,
            set_,
            backend,
            model,
            adapter,
            seed,
            json,
            quiet,
            dry_run,
            trust,
            samples=samples,
        ),
        evaluate.What(
            benchmarks=tuple(benchmark or ()),
            limit=limit,
            out=out,
            resume=resume,
            regrade=regrade,
            against=against,
        ),
    )


@app.command()
def compare(
    finished: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Finished runs to compare; none trains anew."),
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B,...", help="Of opsd, grpo, sft and hybrid.")
    ] = "opsd,grpo",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs of each method, counted from --seed.")
    ] = 3,
    tune: Annotated[
        bool, typer.Option("--tune", help="First choose each learning rate on validation.")
    ] = False,
    target: Annotated[
        float | None,
        typer.Option(
            "--target",
            min=0,
            max=1,
            help="Accuracy to reach; by default the best that the weakest method reaches.",
        ),
    ] = None,
    require_ratio: Annotated[
        float | None,
        typer.Option("--require-ratio", min=0, help="Exit with 4 where the ratio is below this."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs side by side.")] = 1,
    out: options.Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the comparison in --out.")
    ] = False,
    log: options.Log = None,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Set methods against each other on equal terms: tokens for the same accuracy.

    [dim]opsd compare[/dim]
    [dim]opsd compare --methods opsd,grpo,sft --seeds 5 --tune[/dim]
    [dim]opsd compare runs/a runs/b --require-ratio 4[/dim]
    """
    from opsd_cli.cli import common, compare

    compare.run(
        common.request(
            config, set_, backend, model, adapter, seed, json, quiet, dry_run, trust, log=log
        ),
        compare.What(
            finished=tuple(finished or ()), methods=methods, seeds=seeds, tune=tune,
            target=target, require_ratio=require_ratio, jobs=jobs, out=out, resume=resume,
        ),
    )  # fmt: skip


@app.command()
def export(
    adapter: Annotated[
        str, typer.Argument(metavar="RUN", help="A run (its best checkpoint), or an adapter.")
    ],
    format_: Annotated[
        str, typer.Option("--format", "-f", metavar="peft|mlx|merged", help="What to write.")
    ] = "peft",
    out: options.Out = None,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    model: options.Model = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write an adapter for peft and vLLM, for mlx-lm, or merged into its model.

    [dim]opsd export runs/mine --format mlx --out adapters/mine[/dim]
    """
    from opsd_cli.cli import common, export

    export.run(
        common.request(config, set_, backend, model, adapter, None, json, quiet, dry_run),
        format_,
        out,
    )


@app.command()
def doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Report platform, versions and what each backend can do here; paste it into an issue."""
    from opsd_cli.cli import doctor

    doctor.run(json)


@data_app.callback()
def data(context: typer.Context, json: options.Json = False) -> None:
    """List the data sets and benchmarks that opsd knows by name."""
    from opsd_cli.cli import data

    if context.invoked_subcommand is None:
        data.show_all(json)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(autocompletion=options._sets)],
    train: Annotated[
        bool, typer.Option("--train", help="Where both exist, the set to train on.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print a set's description as YAML, to read or to copy and change."""
    from opsd_cli.cli import data

    data.show(name, train, json)


@presets_app.callback()
def presets(context: typer.Context, json: options.Json = False) -> None:
    """List the presets."""
    from opsd_cli.cli import presets

    if context.invoked_subcommand is None:
        presets.show_all(json)


@presets_app.command("show")
def presets_show(name: Annotated[str, typer.Argument(autocompletion=options._presets)]) -> None:
    """Print a preset's file."""
    from opsd_cli.cli import presets

    presets.show(name)


@presets_app.command("copy")
def presets_copy(
    name: Annotated[str, typer.Argument(autocompletion=options._presets)], file: Path
) -> None:
    """Copy a preset to a file of your own, to edit and pass to --config."""
    from opsd_cli.cli import presets

    presets.copy(name, file)


@presets_app.command("keys")
def presets_keys(json: options.Json = False) -> None:
    """List every config key with its default and meaning."""
    from opsd_cli.cli import presets

    presets.keys(json)


def main() -> None:
    """The `opsd` command: errors become a line and a hint, and a documented exit code."""
    debug = "--debug" in sys.argv
    try:
        child_processes.watch_parent()
        import_check.require_own_backends()
        failures.write_what_can_be()
        failures.require_text(sys.argv[1:])
        with child_processes.termination_interrupts():
            code = app(standalone_mode=False)
        sys.stdout.flush()  # a full disk behind `> file` is met here, not when Python ends
    except KeyboardInterrupt:
        interrupted()
    except SystemExit as left:
        # Typer's way out of a broken pipe, without a word.
        if isinstance(left.__context__, BrokenPipeError):
            _end_of_pipe(left.__context__, debug)
        raise
    except BrokenPipeError as error:
        _end_of_pipe(error, debug)
    except Exception as error:
        _end(error, debug)
    else:
        if code == errors.Interrupted.exit_code:  # and as others do, without a word
            interrupted()
        sys.exit(code if isinstance(code, int) else 0)


def interrupted() -> NoReturn:
    """Leave after Ctrl-C or SIGTERM where no command had more to say."""
    fail("interrupted", "what was finished and written is kept", errors.Interrupted.exit_code)


def _end_of_pipe(error: BrokenPipeError, debug: bool) -> NoReturn:
    """Leave: a reader of what is printed has seen enough, or some other pipe broke."""
    if not failures.reader_left():
        _end(error, debug)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _end(error: Exception, debug: bool) -> NoReturn:
    """Leave with what an exception means."""
    usage = getattr(error, "format_message", None)
    if usage is not None:  # Typer's own complaint about the command line
        line = " ".join(usage().split())
        fail(line[:1].lower() + line[1:].rstrip("."), _where_help_is(error), 2)
    if isinstance(error.__cause__, KeyboardInterrupt):  # as some versions of Typer tell it
        interrupted()
    if debug:
        raise error
    known = failures.explained(error)
    if known is not None:
        fail(known.message, known.hint, known.exit_code)
    kind = type(error).__name__
    fail(f"unexpected {kind}: {error}", "run again with --debug", 1)


def _where_help_is(error: Exception) -> str:
    """The command whose help is needed, and how settings are given that have no flag."""
    context, words = getattr(error, "ctx", None), list[str]()
    while context is not None and context.parent is not None:
        words.insert(0, context.info_name)
        context = context.parent
    hint = f"see `{' '.join(['opsd', *words, '--help'])}`"
    if words and type(error).__name__ == "NoSuchOption":
        hint += "; settings are given as --set KEY=VALUE (`opsd presets keys` lists them)"
    return hint


def fail(message: str, hint: str, code: int) -> NoReturn:
    """Print an error as people see it, and leave."""
    print(f"error: {shortened(visible_line(message), LONGEST_LINE)}", file=sys.stderr)
    if hint:
        print(f"hint: {shortened(visible_line(hint), LONGEST_LINE)}", file=sys.stderr)
    # What standard output could not take is not tried again when Python ends.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    sys.exit(code)
