"""The prompts that the embedded model was pretrained on.

It knows these words alone, so they stay as they are whatever the defaults become. Its presets
(`configs/embedded.yaml`) spell them out, and a test holds both against each other.
"""

from __future__ import annotations

ANSWER_INSTRUCTION = r"Reason step by step, and put the final answer in \boxed{}."
STUDENT_TEMPLATE = "{question}\n\n" + ANSWER_INSTRUCTION
TEACHER_TEMPLATE = (
    "{question}\n\n"
    "A verified solution, for your eyes only:\n"
    "[solution begins]\n"
    "{solution}\n"
    "[solution ends]\n\n"
    "Study why each step holds. Do not copy or paraphrase it: "
    "derive the same answer by your own reasoning.\n\n" + ANSWER_INSTRUCTION
)
