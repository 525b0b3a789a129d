"""TRL's prompt-completion rows: one question and the answer to learn, kept as given.

    {"prompt": [{"role": "user", "content": "What colour is the sky?"}],
     "completion": [{"role": "assistant", "content": "<think>Air scatters blue.</think>It is blue."}]}
    {"prompt": "The sky is", "completion": " blue."}

Source: https://huggingface.co/docs/trl/dataset_formats#prompt-completion.
"""

from __future__ import annotations

from typing import Any

from srl.data.formats.fields import items, mapping
from srl.data.formats.labels import verdict
from srl.data.formats.messages import is_rollout
from srl.data.formats.turns import as_chat, is_messages, prompt_messages, read_turn, said_or_called
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import StepInstance

NAME = "prompt-completion"


def recognise(value: Any) -> str | None:
    """Whether a row has a prompt and one completion of it."""
    if not isinstance(value, dict) or is_rollout(value):
        return None
    columns = [as_chat(value.get(name)) for name in ("prompt", "completion")]
    if all(isinstance(column, str) or is_messages(column) for column in columns):
        return "`prompt` and `completion`"
    return None


def read(row: Row, trajectory_id: str) -> StepInstance:
    """One row as a step instance; a leading <think>…</think> of the completion becomes its thought.

    Raises:
        UserError: no prompt, no completion, or a completion of several messages.
        Unusable: an empty prompt or completion.
    """
    value = mapping(row.value, "row", row.where)
    prompt = prompt_messages(as_chat(value.get("prompt")), row.where)
    completion = as_chat(value.get("completion"))
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    completion = items(completion, "completion", row.where)
    if len(completion) != 1:
        raise UserError(f"{row.where}: expected one message in `completion`, found {len(completion)}")
    turn = read_turn(completion[0], row.where)
    if turn.role != "assistant":
        raise UserError(f"{row.where}: expected a message of the assistant in `completion`, found one of {turn.role}")
    act = said_or_called(turn)
    if not any(message["content"].strip() for message in prompt):
        raise Unusable("no problem")
    if act is None:
        raise Unusable("no action")
    return StepInstance(
        trajectory_id=trajectory_id,
        step_index=1,
        prompt=prompt,
        expert_action=act.action,
        thought=act.thought or None,
        verified=verdict(value),
    )
