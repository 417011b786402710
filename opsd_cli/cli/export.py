"""`opsd export`."""

from __future__ import annotations

from pathlib import Path

from opsd_cli import exporting
from opsd_cli.cli.request import Request


def run(request: Request, form: str, directory: Path | None) -> None:
    """Write the adapter in another form, whole or not at all."""
    out = request.out
    exporting.require_format(form)
    config = request.config(inherit=True)
    assert config.adapter is not None
    source = Path(config.adapter)
    directory = exporting.target_of(config, form, directory)
    if request.dry_run:
        out.show(f"would write {source} as {form} to {directory}; nothing was written")
    else:
        exporting.export(config, form, directory, out)
        out.show(f"{directory}: {exporting.FORMATS[form].usage(directory, config)}")
    out.object({"adapter": str(source), "format": form, "out": str(directory)})
