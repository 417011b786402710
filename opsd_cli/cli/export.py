"""`opsd export`."""

from __future__ import annotations

from pathlib import Path

from opsd_cli import exporting
from opsd_cli.cli.common import Request
from opsd_cli.config.schema import Config


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
        out.show(f"{directory}: {_how_to_use(directory, form, config)}")
    out.object({"adapter": str(source), "format": form, "out": str(directory)})


def _how_to_use(directory: Path, form: str, config: Config) -> str:
    base = config.model_path
    if form == "peft":
        return f"peft.PeftModel.from_pretrained(model, '{directory}') loads it on {base}"
    if form == "mlx":
        return f"mlx_lm.generate --model {base} --adapter-path {directory}"
    return "a model of its own: transformers, vLLM and mlx_lm load the folder"
