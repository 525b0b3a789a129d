"""Actions of agents, compared by what they do rather than by how they are written."""

from __future__ import annotations

from typing import Literal

from srl.rewards.actions.calls import NotAnAction, form_of, read_calls
from srl.rewards.actions.compare import calls_similarity
from srl.rewards.actions.pivotrl import functional_reward
from srl.rewards.similarity import ratio

Measure = Literal["actions", "pivotrl", "pivotrl_continuous"]


def why_no_action(action: str, expert: str) -> str | None:
    """Why the expert's harness would not take an action; None if it would, or does not take the expert's either.

    >>> why_no_action("ls -a", "<function=bash>\\n<parameter=command>ls</parameter>\\n</function>")
    'no function call'
    """
    form = form_of(expert)
    for text in (expert, action):
        try:
            read_calls(text, form)
        except NotAnAction as error:
            return str(error) if text is action else None
    return None


def action_score(action: str, expert: str, measure: Measure) -> float:
    """What an action earns beside the expert's, in [0, 1].

    Where the expert's own action is none that its harness takes, the texts are compared (2M/T of characters).

    Raises:
        NotAnAction: the expert's harness would not take the action.

    >>> action_score("ls -l -a src", "ls -la src", "actions")
    1.0
    >>> action_score("cat src/a.py", "cat src/b.py", "pivotrl")
    0.0
    """
    form = form_of(expert)
    try:
        experts = read_calls(expert, form)
    except NotAnAction:
        return ratio(action, expert)
    calls = read_calls(action, form)
    if measure == "actions":
        return calls_similarity(calls, experts)
    return functional_reward(calls, experts, continuous=measure == "pivotrl_continuous")
