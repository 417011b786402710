"""first version"""

from __future__ import annotations

from math_verify import LatexExtractionConfig, parse, verify

from opsd_cli.grading.normalise import normalise

_CONFIG = (LatexExtractionConfig(boxed_match_priority=0),)


def compare(gold: str, answer: str) -> str:
    g, a = normalise(gold), normalise(answer)
    if "".join(g.lower().split()) == "".join(a.lower().split()):
        return "correct"

    def p(t: str) -> list:
        return parse(rf"\boxed{{{t}}}", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)

    pg = p(g)
    if not pg:
        return "unparsable_gold"
    pa = p(a)
    ok = verify(
        pg, pa, float_rounding=10, numeric_precision=100, allow_set_relation_comp=True,
        timeout_seconds=None,
    )
    return "correct" if ok else "wrong"
