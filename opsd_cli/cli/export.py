"""`opsd export`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from opsd_cli import exporting, hub
from opsd_cli.cli.request import Request
from opsd_cli.errors import UsageError
from opsd_cli.model_card import CARD


@dataclass(frozen=True)
class Options:
    """The flags of `opsd export` alone."""

    form: str
    directory: Path | None
    dtype: str | None
    push: str | None
    public: bool


def run(request: Request, options: Options) -> None:
    """Write the adapter in another form, whole or not at all, and upload it if asked to."""
    out, form, repository = request.out, options.form, options.push
    exporting.require_format(form)
    exporting.require_dtype(form, options.dtype)
    if options.public and repository is None:
        raise UsageError("--public is for --push", "name the repository: --push ORG/NAME")
    config = request.config(inherit=True)
    assert config.adapter is not None
    source = Path(config.adapter)
    directory = exporting.target_of(config, form, options.directory)
    if repository is not None:
        hub.require_uploadable(repository)
        if config.is_local:
            out.warn(
                f"the base model {config.model} is a folder here: who downloads {repository} "
                "has to know which model that is"
            )
    address = caution = None
    if request.dry_run:
        exporting.check_source(config, out)
        caution = exporting.caution_of(config, form)
        pushed = f", and push it to {repository}" if repository else ""
        out.show(f"would write {source} as {form} to {directory}{pushed}; nothing was written")
    else:
        caution = exporting.export(config, form, directory, out, options.dtype, repository)
        # Exact: a command that is broken to the terminal's width could not be copied.
        mac = sys.platform == "darwin"
        usage = exporting.FORMATS[form].usage(directory, config, caution, with_mlx=mac)
        out.exact(f"{directory}: {usage}")
        own = exporting.FORMATS[form].own_command(directory, config)
        if own is not None:
            out.exact(own)
        code = ", and code that asks it" if caution is None else ""
        out.show(f"{directory / CARD}: what was trained, the prompt{code}")
        if repository is not None:
            with out.working(f"uploading to {repository}"):
                address = hub.upload(directory, repository, options.public)
            out.show(f"{address}: uploaded, {'public' if options.public else 'private'}")
    told = {"adapter": str(source), "format": form, "out": str(directory)}
    if repository is not None:
        told["url"] = address or ""
    if caution is not None:  # last, where it is read
        out.warn(caution)
    out.object(told)
