"""The teacher's prompt: the question and, between markers, a verified reference solution.

The reference stands in the last user turn, by the teacher's template, or in the system turn, where
the user's turns are the student's own (`prompts.teacher.place`).

Two faults are avoided here. Only the reference may be shortened, and only from its middle:
truncating a teacher prompt from the left, as some trainers do at 512 tokens, drops the question.
And the teacher scores a completion that the student began, so both prompts must end at the same
point: a thinking teacher that expects `<think>` next gives the first token of a non-thinking
student a low probability, and the divergence there is not about the answer. `boundary_mismatch`
detects that, and `match_boundary` gives the teacher the student's own opening instead.
"""

from __future__ import annotations

from dataclasses import replace

from opsd_cli.errors import DataError
from opsd_cli.prompts.rendering import (
    ANSWER_INSTRUCTION,
    Prompt,
    Template,
    Tokenizer,
    escape_control_tokens,
    render,
)

#: The parts are those of the published teacher prompt, in our words. The last sentence keeps the
#: teacher's hedging and self-correction alive, which a solution in view otherwise silences.
TEACHER_TEMPLATE = (
    "Problem: {question}\n\n"
    "This is a verified reference solution of the problem:\n"
    "[solution begins]\n"
    "{solution}\n"
    "[solution ends]\n\n"
    "First make sure that you understand why each of its steps holds. Do not copy or paraphrase "
    "it: derive the same final answer by your own reasoning. Try other ways where they help, "
    "and never hesitate to backtrack or to reconsider.\n\n" + ANSWER_INSTRUCTION
)
#: What the system turn gets where the reference stands there.
SYSTEM_TEMPLATE = (
    "For the user's last question there is a verified reference, which the user does not see:\n"
    "[solution begins]\n"
    "{solution}\n"
    "[solution ends]\n"
    "First make sure that you understand it. Do not copy, paraphrase or mention it: derive the "
    "same final answer by your own reasoning. Try other ways where they help, and never hesitate "
    "to backtrack or to reconsider."
)
GAP = "\n[...]\n"
#: Asks the teacher for an analysis, where it is to reason first.
ANALYSIS_TEMPLATE = (
    "{question}\n\n"
    "A verified solution:\n"
    "[solution begins]\n"
    "{solution}\n"
    "[solution ends]\n\n"
    "Do not solve the problem again. Explain briefly, in your own words, why each step of this "
    "solution holds, and where somebody working without it would most likely go wrong."
)
#: Where a teacher's template has no {analysis}, the analysis follows the solution under this line.
ANALYSIS_HEADING = "\n\nYour analysis of this solution:\n"


def teacher_prompt(
    question: str,
    solution: str,
    template: Template,
    tokenizer: Tokenizer,
    max_tokens: int | None = None,
    analysis: str | None = None,
) -> Prompt:
    """The teacher's prompt, its reference shortened from the middle to fit `max_tokens`.

    Of a conversation, `question` is the last user turn, and the template has the turns before it.

    `analysis`, the teacher's own account of the solution, is never shortened.

    Raises:
        DataError: the question and the instructions alone exceed `max_tokens`.
    """
    question = escape_control_tokens(question, tokenizer)
    solution = escape_control_tokens(solution, tokenizer)
    notes = escape_control_tokens(analysis or "", tokenizer)
    place = template.text if template.reference is None else template.reference
    below = ANALYSIS_HEADING + notes if notes and "{analysis}" not in place else ""

    def rendered(reference: str) -> Prompt:
        values = {"solution": reference + below, "analysis": notes}
        if template.reference is None:
            return render(template, template.fill(question=question, **values), tokenizer)
        block = Template(template.reference).fill(**values)
        system = f"{template.system}\n\n{block}" if template.system else block
        return render(replace(template, system=system), template.fill(question=question), tokenizer)

    prompt = rendered(solution)
    if max_tokens is None or len(prompt.ids) <= max_tokens:
        return prompt
    ids = tokenizer.encode(solution)
    keep = len(ids) - (len(prompt.ids) - max_tokens)
    while keep > 0:
        head, tail = ids[: (keep + 1) // 2], ids[len(ids) - keep // 2 :]
        short = rendered(tokenizer.decode(head).rstrip() + GAP + tokenizer.decode(tail).lstrip())
        if len(short.ids) <= max_tokens:
            return replace(short, shortened=True)
        keep -= max(1, len(short.ids) - max_tokens)
    raise DataError(
        f"a teacher prompt takes {len(prompt.ids) - len(ids)} tokens without its reference "
        f"solution, and {len(prompt.ids)} with it: more than the {max_tokens} allowed",
        "raise prompts.teacher.max_tokens; worked examples (prompts.few_shot) count too, and "
        "`opsd init ... --set prompts.few_shot.examples=N` finds the number",
    )


def boundary_mismatch(student: Prompt, teacher: Prompt) -> str | None:
    """One line on how the two prompts' openings differ, or None where they agree."""
    if student.opening == teacher.opening:
        return None
    return (
        f"the student's answer follows {student.opening!r} but the teacher's {teacher.opening!r}: "
        "the first tokens of every completion will look strange to the teacher"
    )


def match_boundary(student: Prompt, teacher: Prompt, tokenizer: Tokenizer) -> Prompt:
    """The teacher's prompt with the student's opening in place of its own."""
    if student.opening == teacher.opening:
        return teacher
    text = teacher.text[: len(teacher.text) - len(teacher.opening)] + student.opening
    return replace(teacher, text=text, ids=tuple(tokenizer.encode(text)), opening=student.opening)
