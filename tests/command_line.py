"""The command line called in this process, and what its runs leave behind."""

import contextlib
import io
import json
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM

from srl.cli import main

TINY = """
stage = "{stage}"
output_dir = "{run}"
[model]
model_name_or_path = "{model}"
[data]
path = "{data}"
max_prompt_length = {max_prompt_length}
[optim]
learning_rate = 1e-3
max_steps = {max_steps}
per_device_train_batch_size = 16
[rollout]
prompts_per_step = 4
num_generations = 4
max_completion_length = 12
max_refills = 1
min_well_formed = 0
[sft]
target = "{target}"
rows_per_step = 16
[validation]
eval_steps = 2
max_rows = 16
per_device_eval_batch_size = 16
[trl]
{trl}
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def srl(*arguments):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def write_recipe(path, **values):
    """A recipe file whose run folder has the file's name."""
    defaults = {"stage": "srl", "max_steps": 4, "target": "steps", "max_prompt_length": 512, "trl": ""}
    path.write_text(TINY.format(**{**defaults, "run": path.with_suffix(""), **values}))
    return path


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def assert_one_line(done, message):
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("srl: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
