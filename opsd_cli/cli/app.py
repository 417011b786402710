"""The `opsd` program: its commands, and how it ends."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from opsd_cli import __version__, errors, typed_settings
from opsd_cli.cli import commands, failures, listing_commands
from opsd_cli.devices import launched
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
    help="Data sets and benchmarks by name; a check of your own.",
)
presets_app = typer.Typer(
    invoke_without_command=True,
    help="List the presets, show one, copy one, list every key, or print a schema.",
)
app.add_typer(data_app, name="data")
app.add_typer(presets_app, name="presets")

app.command("sample")(commands.sample)
app.command("init")(commands.init)
app.command("train")(commands.train)
app.command("eval")(commands.evaluate)
app.command("compare")(commands.compare)
app.command("report")(commands.report)
app.command("export")(commands.export)
app.command("doctor")(commands.doctor)
data_app.callback()(listing_commands.data)
data_app.command("show")(listing_commands.data_show)
data_app.command("check")(listing_commands.data_check)
presets_app.callback()(listing_commands.presets)
presets_app.command("show")(listing_commands.presets_show)
presets_app.command("copy")(listing_commands.presets_copy)
presets_app.command("keys")(listing_commands.presets_keys)
presets_app.command("schema")(listing_commands.presets_schema)
# Typed by habit.
data_app.command("list", hidden=True)(listing_commands.data_list)
presets_app.command("list", hidden=True)(listing_commands.presets_list)


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


def main() -> None:
    """The `opsd` command: errors become a line and a hint, and a documented exit code."""
    debug = "--debug" in sys.argv
    try:
        child_processes.watch_parent()
        import_check.require_own_backends()
        typed_settings.note([])
        failures.keep_streams()
        failures.write_what_can_be()
        failures.require_text(sys.argv[1:])
        if launched.work_if_asked():
            return
        with child_processes.termination_interrupts():
            code = app(standalone_mode=False)
        sys.stdout.flush()  # so that a full disk behind `> file` is an error here
    except KeyboardInterrupt:
        failures.interrupted()
    except SystemExit as left:
        # Typer and rich exit so on a broken pipe, without a message.
        if isinstance(left.__context__, BrokenPipeError):
            failures.end_of_pipe(left.__context__, debug)
        raise
    except BrokenPipeError as error:
        failures.end_of_pipe(error, debug)
    except Exception as error:
        failures.end(error, debug)
    else:
        if code == errors.Interrupted.exit_code:  # Typer returns it on Ctrl-C, without a message
            failures.interrupted()
        sys.exit(code if isinstance(code, int) else 0)
    finally:
        launched.dismiss_unmet()
