r"""Named problem sets: training sets and benchmarks.

To add one, add an entry to `TRAINING` or `BENCHMARKS`: the commands, their help, shell completion
and `opsd data` read these tables. tests/unit/problems/test_catalog.py asks for one made-up row of
each set's columns.

No data is in the package: an entry gives the location of a set, the row filter, the column mapping
and the publisher's licence. What `solution` means differs from set to set (a trace, a proof, a bare
answer), so every column is mapped explicitly. A benchmark is read at a pinned commit, because
publishers correct questions and answers later, and results on two commits do not compare.

Where a commit could not be confirmed by two independent public uses of it, `revision` is null and
the newest commit is read. The commit that was read is recorded in a run's environment.json and an
evaluation's evaluation.json.
"""

from __future__ import annotations

from pathlib import Path

from opsd_cli.config.sections import Columns
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import DataError
from opsd_cli.problems.set_description import (
    YAML_SUFFIXES,
    SetDescription,
    parse_hub_id,
    read_description,
)

_LONG_TRACES = (
    "The reference is what the trace says after its think block; set after_thinking to false in a "
    "copy of this for the whole trace, which is thousands of tokens long "
    "(prompts.teacher.max_tokens shortens it from its middle)."
)
#: Completion tokens a competition problem in the paper's and in Qwen3's evaluations.
COMPETITION_TOKENS = 38912

TRAINING: dict[str, SetDescription] = {
    "openthoughts-30k": SetDescription(
        title="the paper's training set: 29,434 mathematics problems from OpenThoughts",
        data="siyanzhao/Openthoughts_math_30k_opsd",
        split="train",
        revision="1f33e9dc2e8a1c639ca74f8024ad4a9f1f5eae62",
        columns=Columns(question="problem", solution="solution", answer="Answer"),
        licence="none stated; OpenThoughts-114k, its source, is Apache-2.0",
        caution="References are model-written traces; some are long (prompts.teacher.max_tokens).",
    ),
    "openthoughts-114k": SetDescription(
        title="OpenThoughts' mathematics, with DeepSeek-R1's solutions",
        data="open-thoughts/OpenThoughts-114k",
        subset="metadata",
        split="train",
        columns=Columns(question="problem", solution="deepseek_solution"),
        keep={"domain": "math"},
        licence="Apache-2.0",
        caution="Answers are read off the solution's box; rows without one are left out. "
        "Solutions were checked by a judge model, not all by a parser. Not pinned.",
    ),
    "openr1-math-220k": SetDescription(
        title="OpenR1's mathematics: the first R1 generation that math-verify found right",
        data="open-r1/OpenR1-Math-220k",
        subset="default",
        split="train",
        revision="e4e141ec9dea9f8326f4d347be56105859b2bd68",
        columns=Columns(question="problem", solution="generations", answer="answer"),
        verified_by={"generations": ("correctness_math_verify", "is_reasoning_complete")},
        after_thinking=True,
        licence="Apache-2.0",
        caution=_LONG_TRACES + " Rows verified by a judge model alone are left out.",
    ),
    "numinamath-1.5": SetDescription(
        title="NuminaMath 1.5: competition problems with human solutions",
        data="AI-MO/NuminaMath-1.5",
        split="train",
        revision="1b05109f9e5c1ad06c0663519502416c30b300f8",
        columns=Columns(question="problem", solution="solution", answer="answer"),
        keep={
            "problem_is_valid": "Yes",
            "solution_is_valid": "Yes",
            "question_type": "math-word-problem",
        },
        drop={"answer": ("proof", "notfound")},
        licence="Apache-2.0",
        caution="Proofs and multiple choice are left out. It draws on past competitions, AIME "
        "among them: problems that are also in the test set are removed and counted, but only "
        "where the wording is the same.",
    ),
    "deepmath-103k": SetDescription(
        title="DeepMath: hard problems, decontaminated, with R1's solutions",
        data="zwhe99/DeepMath-103K",
        split="train",
        revision="5cf055d1fe3d7a2eb19719ac020211469736ae44",
        columns=Columns(question="question", solution="r1_solution_1", answer="final_answer"),
        after_thinking=True,
        licence="MIT",
        caution=_LONG_TRACES,
    ),
    "s1k-1.1": SetDescription(
        title="s1K 1.1: a thousand chosen problems; its mathematics, with R1's attempts",
        data="simplescaling/s1K-1.1",
        split="train",
        columns=Columns(question="question", solution="deepseek_attempt", answer="solution"),
        keep={"cot_type": "math", "deepseek_grade": "Yes"},
        licence="MIT",
        caution="Attempts that were graded wrong are left out. Some answers are sentences, which "
        "cannot be graded: opsd says how many. Not pinned.",
    ),
    "gsm8k": SetDescription(
        title="GSM8K: 7,473 grade-school word problems with short human solutions",
        data="openai/gsm8k",
        subset="main",
        split="train",
        revision="740312add88f781978c0658806c59bc2815b9866",
        columns=Columns(question="question", solution="answer", answer="answer"),
        problems=7473,
        licence="MIT",
        caution="Solutions hold calculator marks such as <<48/2=24>>. Easy for recent models: the "
        "preflight may find nothing to distil.",
    ),
    "dapo-math-17k": SetDescription(
        title="DAPO's mathematics in English: problems and integer answers, no solutions",
        data="open-r1/DAPO-Math-17k-Processed",
        subset="en",
        split="train",
        columns=Columns(question="prompt", answer="solution"),
        licence="Apache-2.0 (DAPO-Math-17k's)",
        caution="For --method grpo, or a teacher with teacher.reference=answer or sibling: its "
        "`solution` is the bare answer. Not pinned.",
    ),
}


def _from_matharena(
    title: str, name: str, revision: str, problems: int, caution: str = ""
) -> SetDescription:
    """A competition published by MathArena: all have the same columns and licence."""
    return SetDescription(
        title=f"{title}, from MathArena",
        data=f"MathArena/{name}",
        split="train",
        revision=revision,
        columns=Columns(question="problem", answer="answer", id="problem_idx"),
        max_new_tokens=COMPETITION_TOKENS,
        problems=problems,
        licence="CC BY-NC-SA 4.0",
        caution=caution,
    )


BENCHMARKS: dict[str, SetDescription] = {
    "aime24": SetDescription(
        title="AIME 2024, I and II",
        data="HuggingFaceH4/aime_2024",
        split="train",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        columns=Columns(question="problem", answer="answer", id="id"),
        max_new_tokens=COMPETITION_TOKENS,
        problems=30,
        licence="none stated; problems by the MAA",
        caution="Public since February 2024: newer models may have met it in training.",
    ),
    "aime25": SetDescription(
        title="AIME 2025, I and II",
        data="math-ai/aime25",
        split="test",
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
        columns=Columns(question="problem", answer="answer", id="id"),
        max_new_tokens=COMPETITION_TOKENS,
        problems=30,
        licence="Apache-2.0; problems by the MAA",
    ),
    "aime26": _from_matharena(
        "AIME 2026, I and II", "aime_2026", "d2de22f3c656b4f56cf8981212186377d1e23bc3", 30
    ),
    "hmmt_feb25": _from_matharena(
        "HMMT February 2025",
        "hmmt_feb_2025",
        "6fdc4277120810ff75aa22d2d5489b91f7a262a1",
        30,
        "About half the answers are expressions rather than integers, one is a list.",
    ),
    "hmmt_nov25": _from_matharena(
        "HMMT November 2025", "hmmt_nov_2025", "118dbfb45c4c9467c672268ed55166642897aa46", 30
    ),
    "hmmt_feb26": _from_matharena(
        "HMMT February 2026", "hmmt_feb_2026", "02fba4f74d8e68e73e66a02d540fd979c05c274c", 33
    ),
    "amo_bench": SetDescription(
        title="AMO-Bench: the 39 of its 50 problems whose answers a parser can grade",
        data="meituan-longcat/AMO-Bench",
        split="test",
        revision="2f422616c25d862984408fbbfaed63a961e8e025",
        columns=Columns(question="prompt", answer="answer", id="question_id"),
        keep={"answer_type": ("number", "set", "variable")},
        max_new_tokens=COMPETITION_TOKENS,
        problems=39,
        licence="MIT",
        caution="The other 11 want a description, which its authors grade by a model: a figure on "
        "these 39 is not the leaderboard's on 50. Its `variable` answers were made to be checked "
        "at several values; here they are compared as expressions.",
    ),
    "math500": SetDescription(
        title="MATH-500: 500 problems of MATH's test set",
        data="HuggingFaceH4/MATH-500",
        split="test",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        columns=Columns(question="problem", solution="solution", answer="answer", id="unique_id"),
        max_new_tokens=32768,
        problems=500,
        licence="MIT (MATH's)",
        caution="Public since 2021, and in many training sets.",
    ),
    "amc23": SetDescription(
        title="AMC 12 of 2023: 40 problems with integer answers",
        data="math-ai/amc23",
        split="test",
        revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
        columns=Columns(question="question", answer="answer", id="id"),
        max_new_tokens=32768,
        problems=40,
        licence="none stated; problems by the MAA",
    ),
    "minerva": SetDescription(
        title="Minerva's quantitative undergraduate problems (MIT OpenCourseWare)",
        data="math-ai/minervamath",
        split="test",
        revision="ee46ddc498933b1977577953250ca5c66be64f96",
        columns=Columns(question="question", answer="answer"),
        max_new_tokens=32768,
        problems=272,
        licence="none stated; problems from MIT OpenCourseWare, CC BY-NC-SA 4.0",
        caution="Physics answers are rounded and have units; some golds are rounder than others.",
    ),
    "olympiadbench": SetDescription(
        title="OlympiadBench: open-ended English mathematics, text only",
        data="Hothan/OlympiadBench",
        subset="OE_TO_maths_en_COMP",
        split="train",
        revision="91184b52131e7fc9455fef848035173aea8cc01a",
        columns=Columns(question="question", answer="final_answer", id="id"),
        max_new_tokens=32768,
        problems=674,
        licence="Apache-2.0",
        caution="One of its 18 subsets. Some golds hold several answers, or a unit. The split is "
        "called train, and is the benchmark.",
    ),
    "beyondaime": SetDescription(
        title="BeyondAIME: 100 problems harder than AIME's, integer answers",
        data="ByteDance-Seed/BeyondAIME",
        split="test",
        revision="c705198ae1043810b1e1693bd879250b51a7a523",
        columns=Columns(question="problem", answer="answer"),
        max_new_tokens=COMPETITION_TOKENS,
        problems=100,
        licence="CC0-1.0",
    ),
    "gsm8k": SetDescription(
        title="GSM8K's test set: 1,319 grade-school word problems",
        data="openai/gsm8k",
        subset="main",
        split="test",
        revision="740312add88f781978c0658806c59bc2815b9866",
        columns=Columns(question="question", answer="answer"),
        problems=1319,
        licence="MIT",
        caution="Solved by recent models but for a few wrong golds.",
    ),
}


def describe(source: str, role: str) -> SetDescription | None:
    """The description that a source names; None for a file of problems.

    Args:
        source: a catalogued name, a YAML description, a hub id, or a file of problems.
        role: "train", "validation" or "test"; decides between a training set and a benchmark of
            the same name.

    Raises:
        DataError: a benchmark as training data, or an unknown name.
        ConfigError: a YAML file that is not a valid description.
    """
    name = source.casefold()
    first, second = (TRAINING, BENCHMARKS) if role == "train" else (BENCHMARKS, TRAINING)
    if name in first:
        return first[name]
    if name in second:
        if role == "train":
            raise DataError(
                f"{source} is a benchmark: training on it would void what is measured on it",
                "sets to train on: " + ", ".join(TRAINING),
            )
        return second[name]
    path = Path(source).expanduser()
    if path.suffix.lower() in YAML_SUFFIXES:
        return read_description(path)
    if path.exists() or path.suffix.lower() in _file_suffixes():
        return None
    hub_set = parse_hub_id(source)
    if hub_set is None and "/" not in source and "." not in source:
        raise DataError(f"there is no set {source!r}", _nearest(name, role))
    return hub_set


def catalogued(description: SetDescription) -> str | None:
    """The name of a description in the catalog; None if it is not from there."""
    for entries in (TRAINING, BENCHMARKS):
        for name, entry in entries.items():
            if entry is description:
                return name
    return None


def _file_suffixes() -> tuple[str, ...]:
    from opsd_cli.problems.files import READERS

    return tuple(READERS)


def _nearest(name: str, role: str) -> str:
    import difflib

    files = [Path(name + suffix) for suffix in _file_suffixes()]
    file = next((path for path in files if path.is_file()), None)
    if file is not None:
        return f"did you mean {str(file)!r}?"
    known = [EMBEDDED, *(TRAINING if role == "train" else BENCHMARKS)]
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.6) or (
        difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    )
    if close:
        return f"did you mean {close[0]!r}?"
    return "name a file, a hub id (ORG/NAME), or one that `opsd data` lists"
