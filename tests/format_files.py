"""The samples of every public format, the real files beside them, and who reads which."""

import json
from pathlib import Path

import pytest

from srl.data.formats import (
    gsm8k,
    messages,
    mini_swe_agent,
    nemo_gym,
    openhands,
    process_rewards,
    prompt_completion,
    react,
    session_log,
    swe_agent,
    swe_smith,
    toolbench,
    verl,
)
from srl.data.formats.written import Written, as_trajectory
from srl.data.sources import FORMATS
from srl.files import Row

SAMPLES = Path(__file__).parent / "samples"
REAL = Path(__file__).parents[2] / "shared" / "data"

ORDER = FORMATS[1:]  # all but srl's own rows

FORMAT_OF = {
    "agent_instruct.jsonl": messages,
    "anthropic.jsonl": messages,
    "hermes.jsonl": messages,
    "llama_factory.jsonl": messages,
    "openai.jsonl": messages,
    "sharegpt.jsonl": messages,
    "tau_bench.json": messages,
    "verifiers.jsonl": messages,
    "swe_smith.jsonl": swe_smith,
    "swe_agent_0.traj": swe_agent,
    "swe_agent_1.traj": swe_agent,
    "swe_agent_history.traj": swe_agent,
    "nebius.jsonl": swe_agent,
    "mini_1.traj.json": mini_swe_agent,
    "mini_2.traj.json": mini_swe_agent,
    "mini_list.traj.json": mini_swe_agent,
    "openhands_events.json": openhands,
    "openhands_output.jsonl": openhands,
    "openhands_sdk.json": openhands,
    "react.jsonl": react,
    "prm800k.jsonl": process_rewards,
    "math_shepherd.jsonl": process_rewards,
    "stepwise.jsonl": process_rewards,
    "prompt_completion.jsonl": prompt_completion,
    "verl.jsonl": verl,
    "gsm8k.jsonl": gsm8k,
    "nemo_gym.jsonl": nemo_gym,
    "session_log.jsonl": session_log,
    "toolbench.json": toolbench,
}

REAL_FORMAT_OF = {
    "agent_trajectories/reason_tool_use_demo_50.jsonl": messages,
    "math_trajectories/prm800k_sample.jsonl": process_rewards,
    "swe_trajectories/mini-swe-agent/astropy__astropy-7166.traj.json": mini_swe_agent,
    "swe_trajectories/mini-swe-agent/django__django-10999.traj.json": mini_swe_agent,
    "swe_trajectories/mini-swe-agent/local.traj.json": mini_swe_agent,
    "swe_trajectories/mini-swe-agent/pallets__flask-5014.traj.json": mini_swe_agent,
    "swe_trajectories/swe-agent/function_calling_simple.traj": swe_agent,
    "swe_trajectories/swe-agent/humanevalfix-python-0.traj": swe_agent,
    "swe_trajectories/swe-agent/marshmallow-1867.function_calling.traj": swe_agent,
    "swe_trajectories/swe-smith/ft_xml_example.jsonl": swe_smith,
    "swe_trajectories/swe-smith/pydantic__pydantic.acb0f10f.pr_8316.traj": swe_agent,
}


def rows(path):
    """The rows of a file; a whole file is one row, but tau-bench leaves a list of them, and a log is one in lines."""
    text = path.read_text(encoding="utf-8")
    if path.name == "session_log.jsonl":
        return [[json.loads(line) for line in text.splitlines()]]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text) if path.name == "tau_bench.json" else [json.loads(text)]


def read(name, index=0):
    return whole(FORMAT_OF[name].read(Row(f"{name}:{index + 1}", rows(SAMPLES / name)[index]), "t"))


def whole(record):
    """The record, cut into steps if it is a written solution."""
    return as_trajectory(record) if isinstance(record, Written) else record


def real(name, index=0):
    path = REAL / name
    if not path.is_file():
        pytest.skip("the real files (../shared/data) are not here")
    return whole(REAL_FORMAT_OF[name].read(Row(f"{path.name}:{index + 1}", rows(path)[index]), "t"))


def call(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
