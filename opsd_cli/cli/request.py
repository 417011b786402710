"""The flags that every command has, gathered into a request."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd_cli import typed_settings
from opsd_cli.cli.console import Output
from opsd_cli.config.origins import Setting, changed_settings
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.devices.hosts import run_on
from opsd_cli.devices.number import Devices, devices_of
from opsd_cli.loading import resolved_config

#: Flags that the commands which take a config have in common.
_OWN_FLAGS = ("backend", "model", "adapter", "seed")
#: Flags that say nothing of what is trained or measured, or that are written in another way.
_LEFT_OUT = ("log", "trust_remote_code")


@dataclass(frozen=True)
class Request:
    """The common flags of a command, as typed."""

    config_names: tuple[str, ...]
    assignments: tuple[str, ...]
    flags: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    out: Output = field(default_factory=Output)
    checkpoint: str | None = None
    devices: Devices = 1

    def config(self, inherit: bool = False, base: Path | None = None) -> Config:
        """The resolved config; see `opsd_cli.loading.resolved_config`."""
        return resolved_config(
            self.config_names, self.assignments, self.flags, inherit, base, self.checkpoint
        )

    def changed_settings(self, config: Config) -> list[Setting]:
        """The settings of the resolved config that differ from the defaults, with their origin."""
        return changed_settings(config, self.config_names, self.assignments, self.flags)

    def without(self, flag: str) -> Request:
        """The request as if a flag had not been typed."""
        return replace(self, flags={k: v for k, v in self.flags.items() if k != flag})

    def taking(self, key: str) -> tuple[Any, Request]:
        """The value that a flag or `--set` gives a key, and the request without it.

        Returns:
            The value, None if none was typed; and the rest.

        Raises:
            ConfigError: it is not valid.
        """
        section, name = key.split(".")
        flag = self.flags.get(section, {}).get(name)
        typed = [each for each in self.assignments if each.partition("=")[0].strip() == key]
        rest = replace(
            self,
            assignments=tuple(each for each in self.assignments if each not in typed),
            flags=self.flags | {section: {**self.flags.get(section, {}), name: None}},
        )
        if flag is None and not typed:
            return None, rest
        config = resolve(None, typed, {section: {name: flag}})
        return getattr(getattr(config, section), name), rest

    @property
    def settings(self) -> list[str]:
        """The config's part of the command line, in words that every command takes."""
        words = typed_settings.words(self.config_names, self.assignments)
        for name, value in self.flags.items():
            if name in _OWN_FLAGS and value is not None:
                words += [f"--{name}", str(value)]
            elif name not in (*_OWN_FLAGS, *_LEFT_OUT):
                words += _assignments(name, value)
        words += ["--checkpoint", self.checkpoint] if self.checkpoint is not None else []
        return words + (["--trust-remote-code"] if self.flags.get("trust_remote_code") else [])

    @property
    def changes_anything(self) -> bool:
        """Whether any flag or `--set` changes the config."""
        return bool(self.config_names or self.assignments or _given(self.flags))


def request(
    config: Sequence[str] | None,
    assignments: Sequence[str] | None,
    backend: str | None,
    model: str | None,
    adapter: str | None,
    seed: int | None,
    json: bool,
    quiet: bool,
    dry_run: bool,
    trust: bool = False,
    method: str | None = None,
    samples: int | None = None,
    log: Sequence[str] | None = None,
    checkpoint: str | None = None,
    aliases: Mapping[str, Any] | None = None,
    devices: str | None = None,
    hosts: Path | None = None,
) -> Request:
    """Gather the common flags; `aliases` are flags that stand for a dotted config key each.

    With `hosts` this process runs the command there, and ends.
    """
    if hosts is not None:
        run_on(hosts, sys.argv[1:])
    flags: dict[str, Any] = {
        "backend": backend,
        "model": model,
        "adapter": adapter,
        "seed": seed,
        "method": method,
        "log": [name for given in log for name in given.split(",")] if log else None,
        "trust_remote_code": trust or None,
        "evaluation": {"samples": samples},
    }
    for key, value in (aliases or {}).items():
        section, _, name = key.partition(".")
        flags.setdefault(section, {})[name] = value
    out = Output(json, quiet)
    found = Request(
        tuple(config or ()), tuple(assignments or ()), flags, dry_run, out, checkpoint,
        devices_of(devices),
    )  # fmt: skip
    typed_settings.note(found.settings)
    return found


def _assignments(key: str, value: Any) -> list[str]:
    """`--set KEY=VALUE` for a value of the flags, or for each of a section's."""
    if isinstance(value, Mapping):
        return [word for k, v in value.items() for word in _assignments(f"{key}.{k}", v)]
    return [] if value is None else ["--set", f"{key}={value}"]


def _given(tree: dict[str, Any]) -> bool:
    return any(_given(v) if isinstance(v, dict) else v is not None for v in tree.values())
