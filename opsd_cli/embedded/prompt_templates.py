"""The prompt templates that the embedded model was pretrained on.

The model was trained on no other wording, so these stay unchanged if the defaults of the config
change. Its preset (`configs/embedded.yaml`) repeats them, and a test compares both.
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
