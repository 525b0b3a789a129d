"""A whole run of an agent as a conversation: what the baseline of SFT on whole trajectories learns.

    system      as for single steps: what is asked, and the environment's own instructions
    user        Task: {problem}
    assistant   <think>{thought}</think> and the action; without a thought the action alone
    user        Observation: {what came back}
    …

The loss is on the assistant's turns only.
"""

from __future__ import annotations

from typing import NamedTuple

from srl.chat.prompts import AGENT_SYSTEM_PROMPT, SEPARATOR, format_completion, parse_completion, shortened
from srl.records import Message, Trajectory


class Conversation(NamedTuple):
    """A trajectory, split where the expert begins to act."""

    prompt: tuple[Message, ...]
    turns: tuple[Message, ...]
    """Of the assistant, the user, the assistant, …; the last is the assistant's."""


def conversation(
    trajectory: Trajectory, system_prompt: str | None = None, max_observation_chars: int = 10_000
) -> Conversation | None:
    """A trajectory in an environment, turn by turn; None if a turn is one that no well-formed completion can say."""
    system = AGENT_SYSTEM_PROMPT if system_prompt is None else system_prompt
    system = SEPARATOR.join(filter(None, (system, trajectory.instructions)))
    first = [Message(role="system", content=system)] if system else []
    turns: list[Message] = []
    observed = ""
    for step in trajectory.steps:
        said = format_completion(step.thought, step.action)
        if parse_completion(said if step.thought else format_completion("thought", said)).format_error:
            return None
        if turns:
            turns.append(Message(role="user", content=f"Observation:\n{observed}"))
        turns.append(Message(role="assistant", content=said))
        observed = shortened(step.observation or "", max_observation_chars)
    return Conversation((*first, Message(role="user", content=f"Task: {trajectory.problem}")), tuple(turns))
