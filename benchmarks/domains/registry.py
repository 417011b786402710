"""The domains by name."""

from __future__ import annotations

from benchmarks.domains.choice import CHOICE
from benchmarks.domains.constraints import CONSTRAINTS
from benchmarks.domains.example import Domain
from benchmarks.domains.extraction import JSON
from benchmarks.domains.functions import CODE
from benchmarks.domains.style import STYLE

DOMAINS: dict[str, Domain] = {each.name: each for each in (CHOICE, JSON, CONSTRAINTS, CODE, STYLE)}
