r"""verl's reinforcement learning rows: a prompt, and what a rule-based reward compares the answer with.

    {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": "2 + 2?"}], "ability": "math",
     "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"answer": "2 + 2 = 4\n#### 4", …}}

Source: https://verl.readthedocs.io/en/latest/preparation/prepare_data.html.
"""

from __future__ import annotations

from typing import Any

from srl.data.formats.fields import first_text, mapping, submapping
from srl.data.formats.turns import as_chat, as_json, is_messages, prompt_messages
from srl.errors import Unusable
from srl.files import Row
from srl.records import Problem

NAME = "verl"


def recognise(value: Any) -> str | None:
    """Whether a row has a prompt of messages and a `reward_model`."""
    if not isinstance(value, dict) or not isinstance(value.get("reward_model"), dict):
        return None
    return "`prompt` with `reward_model`" if is_messages(as_chat(value.get("prompt"))) else None


def read(row: Row, trajectory_id: str) -> Problem:
    """One row as a problem: the prompt as given; the solution from `extra_info`, if there is one in words.

    Raises:
        UserError: no prompt, or a message of no known shape.
        Unusable: an empty prompt.
    """
    value = mapping(row.value, "row", row.where)
    prompt = prompt_messages(as_chat(value.get("prompt")), row.where)
    if not any(message["content"].strip() for message in prompt):
        raise Unusable("no problem")
    truth = mapping(value.get("reward_model"), "reward_model", row.where).get("ground_truth")
    answer = truth if isinstance(truth, str) or truth is None else as_json(truth)
    return Problem(
        trajectory_id=trajectory_id,
        prompt=prompt,
        answer=answer,
        solution=first_text(submapping(value, "extra_info"), ("solution", "answer", "response")),
    )
