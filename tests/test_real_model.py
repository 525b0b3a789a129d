"""A newcomer's way with a small real model, from GSM8K to the report, as docs/first-run.md tells it.

Its commands run as a user runs them; what they print is shown with `pytest -s`.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import metrics

GSM8K = Path(__file__).parents[2] / "shared/data/gsm8k"
SYSTEM_PROMPT = "First think between <think> and </think>. After it write only the next step of the solution, and stop."

RECIPE = """
stage = "srl"
output_dir = "{folder}/first"
[model]
model_name_or_path = "{model}"
[data]
path = "{folder}/steps"
[optim]
learning_rate = 1e-5
max_steps = 1
per_device_train_batch_size = 16
[rollout]
prompts_per_step = 4
num_generations = 4
max_completion_length = 80
max_refills = 1
step_order = "trajectory"
[validation]
eval_steps = 1
max_rows = 4
per_device_eval_batch_size = 4
[checkpoints]
keep_when_finished = false
"""

STEPS = ("--hold-out", 0.1, "--annotations", "thought", "--system-prompt", SYSTEM_PROMPT)
WARM_UP = ("--examples", 32, "--batch-size", 32, "--learning-rate", "5e-4")

SILENCE_SECONDS, FIRST_LINE_SECONDS = 20, 10

pytestmark = pytest.mark.slow


class Told:
    """What a command said, and how it ended."""

    def __init__(self, *arguments, code=0):
        command = [sys.executable, "-m", "srl.cli", *map(str, arguments)]
        print(f"\n$ srl {' '.join(map(str, arguments))}", flush=True)
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(os.cpu_count())}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        started = last = time.monotonic()
        self.lines, self.silences = [], []
        for line in process.stdout:
            now = time.monotonic()
            self.silences.append(now - last)  # before this line
            last = now
            self.lines.append(line.rstrip())
            print(f"{now - started:6.1f} s  {line}", end="", flush=True)
        self.text = "\n".join(self.lines)
        self.seconds = time.monotonic() - started
        assert process.wait() == code, self.text
        assert max(self.silences) < SILENCE_SECONDS, self.lines[self.silences.index(max(self.silences))]

    def silence_after(self, said):
        """Seconds from the first line that holds this to the next."""
        place = next(place for place, line in enumerate(self.lines) if said in line)
        return self.silences[place + 1]

    def etas(self, what):
        """Seconds left by the lines about one piece of work."""
        found = [re.search(r"(\d+):(\d\d):(\d\d) left", line) for line in self.lines if line.startswith(f"{what} ")]
        return [sum(int(part) * 60**place for place, part in enumerate(m.groups()[::-1])) for m in found if m]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, real_model):
    if not GSM8K.is_dir():
        pytest.skip(f"GSM8K is not at {GSM8K}")
    folder = tmp_path_factory.mktemp("first-run")
    lines = (GSM8K / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "gsm8k.jsonl").write_text("".join(lines[:60]))
    problems = (GSM8K / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "problems.jsonl").write_text("".join(problems[:2]))
    (folder / "srl.toml").write_text(RECIPE.format(folder=folder, model=real_model))
    return folder


def test_from_gsm8k_to_the_report(folder, capsys):
    started = time.monotonic()
    said = [
        Told("steps", folder / "gsm8k.jsonl", "--out", folder / "steps", *STEPS),
        Told("train", folder / "srl.toml", code=2),
    ]
    assert said[-1].silence_after(" will hold up to ") < FIRST_LINE_SECONDS  # of the model being loaded
    refusal = said[-1].lines[-1]
    assert refusal.startswith("srl: ")
    assert "no <think> in " in refusal
    assert "srl warm-up " in refusal
    assert not (folder / "first/model").exists()

    said.append(Told("warm-up", folder / "srl.toml", "--out", folder / "warm-up", *WARM_UP))
    warmed_up = folder / "warm-up/run"
    facts = json.loads((warmed_up / "run.json").read_text())["warm_up"]
    well_formed = {when: count / facts["checked"] for when, count in facts["well_formed"].items()}
    second = folder / "second"
    etas = said[-1].etas("step")
    assert len({*etas}) > 5  # it moves
    assert etas[-1] < etas[0]
    flags = ["--model.model-name-or-path", warmed_up, "--output-dir", second]
    said.append(Told("train", folder / "srl.toml", *flags))
    assert "share_prefix" not in said[-1].text  # no warning: it shares
    steps = [line for line in metrics(second) if "kept_fraction" in line]
    assert len(steps) == 1
    assert max(line["kept_fraction"] for line in steps) > 0
    assert min(line["sharing_ratio"] for line in steps) > 1
    card_tells_of_the_saved_weights(second)

    asked = ["--benchmarks", folder / "problems.jsonl", "--greedy"]
    said.append(Told("evaluate", second, *asked, "--out", folder / "answer", "--max-tokens", "80"))
    stepwise = ["--protocol", "stepwise", "--max-tokens", "80", "--max-steps", "2"]
    said.append(Told("evaluate", second, *asked, "--out", folder / "stepwise", *stepwise))
    said.append(Told("report", second, warmed_up, folder / "answer", folder / "stepwise", "--out", folder / "r.html"))
    assert (folder / "r.html").stat().st_size > 10_000

    shares = f"well formed: {well_formed['before']:.0%} before, {well_formed['after']:.0%} after the warm-up"
    per_minute = 60 * len(steps) / sum(line["step_time"] for line in steps)
    silence = max(max(one.silences) for one in said)
    with capsys.disabled():
        print(
            f"\n{shares}; sharing ratio {steps[-1]['sharing_ratio']:.2f}; {per_minute:.2f} steps per minute; longest "
            f"silence {silence:.0f} s; {time.monotonic() - started:.0f} s in all"
        )
    assert well_formed["before"] < 0.1
    assert well_formed["after"] >= 0.9  # as many rounds as that takes, up to three


def card_tells_of_the_saved_weights(run):
    """Its held-out reward is that of an evaluation of the saved weights, made anew."""
    from srl.chat.tokenizer import load_chat
    from srl.runs.recipe import read_recipe
    from srl.training.options import trainer_config, trainer_options
    from srl.training.policy import load_policy
    from srl.training.rows import load_rows
    from srl.training.train import build_trainer

    recipe = read_recipe(run / "config.toml").model_copy(update={"output_dir": run.with_name("again")})
    path = str(run / "model")
    chat = load_chat(path, **recipe.chat.model_dump())
    rows = [load_rows(recipe, split, chat) for split in ("train", "validation")]
    config = trainer_config(recipe, trainer_options(recipe, 1, has_validation=True))
    trainer = build_trainer(recipe, config, load_policy(recipe, path, chat), chat, *rows)
    trainer.preflight = None
    found = trainer.evaluate()["eval_reward"]
    _, after = re.search(r"^\| reward \| (\S+) \| (\S+) \|", (run / "model/README.md").read_text(), re.M).groups()
    assert float(after) == pytest.approx(found, abs=2e-3)
