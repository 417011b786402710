"""A role's template within a problem's conversation.

A chat's turns before the last user turn are in the prompts of both roles, and the template words
the last user turn alone. The chat's own system turn takes the place of the config's. The chat
template is applied once, to the whole list of turns.
"""

from __future__ import annotations

from dataclasses import replace

from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Template, Tokenizer, escape_control_tokens


def in_conversation(template: Template, problem: Problem, tokenizer: Tokenizer) -> Template:
    """The template with the system turn and the earlier turns of a problem's conversation.

    Control tokens in them are escaped. A plain question leaves the template as it is.
    """
    if not problem.turns:
        return template
    system = problem.system
    earlier = problem.earlier_turns
    return replace(
        template,
        system=template.system if system is None else escape_control_tokens(system, tokenizer),
        turns=tuple((role, escape_control_tokens(text, tokenizer)) for role, text in earlier),
    )
