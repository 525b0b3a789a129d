"""`srl profile`: every step sampled once, those kept that training can learn from; it goes on and judges anew."""

import json
import shutil
import statistics

import pytest
from chat_server import completion, refusal, serving
from command_line import assert_one_line, srl, write_recipe

from srl.data.folder import rows_file
from srl.engines import profile as profiles
from srl.engines.profile import Bounds, NothingKept, ProfileOptions, profile
from srl.errors import UserError
from srl.rewards import StepReward
from srl.runs.recipe import Reward

OPTIONS = ProfileOptions(samples=4, max_completion_length=12, batch_size=32)
FLAGS = ("--samples", "4", "--max-completion-length", "12")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def few_data(tiny_data, tmp_path_factory):
    """A data folder of 30 training steps."""
    folder = tmp_path_factory.mktemp("few") / "data"
    shutil.copytree(tiny_data, folder)
    steps = folder / "train.steps.jsonl"
    steps.write_text("".join(steps.read_text().splitlines(keepends=True)[:30]))
    return folder


@pytest.fixture(scope="module")
def profiled(tiny_student, few_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("profiles") / "out"
    done = srl("profile", few_data, "--model", tiny_student, "--out", out, *FLAGS)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_kept_are_the_steps_with_spread_and_a_mean_below_the_bound(profiled, few_data):
    out, printed = profiled
    rows, judged, sampled = (
        lines(few_data / "train.steps.jsonl"),
        lines(out / "profile.jsonl"),
        lines(out / "samples.jsonl"),
    )
    assert len(rows) == len(judged) == len(sampled) == 30
    kept = []
    for row, line, sample in zip(rows, judged, sampled, strict=True):
        texts = [text for text, cut in sample["completions"] if not cut]
        assert len(sample["completions"]) == 4
        paid = StepReward()(texts, [row["expert_action"]] * len(texts)) + [-1.0] * (4 - len(texts))
        assert sorted(line["rewards"]) == pytest.approx(sorted(paid))
        assert line["mean"] == pytest.approx(statistics.mean(paid))
        if statistics.pstdev(paid) > 0.01 and statistics.mean(paid) < 1:
            kept.append(row)
            assert line["left_out"] is None
        else:
            assert line["left_out"]
    assert lines(out / "train.steps.jsonl") == kept
    assert 0 < len(kept) < 30
    assert f"30 steps, kept {len(kept)} ({len(kept) / 30:.1%})" in printed
    for name in ("validation.steps", "train.problems", "validation.problems"):
        assert rows_file(out, name).read_bytes() == rows_file(few_data, name).read_bytes()
    facts = json.loads((out / "report.json").read_text())
    assert facts["profile"]["bounds"] == {"min_std": 0.01, "max_mean": 1.0, "own": False}
    assert facts["options"] == json.loads((few_data / "report.json").read_text())["options"]


def test_training_takes_what_was_kept(profiled, tiny_student, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=profiled[0], max_steps=1)
    done = srl("train", recipe, "--validation.eval-steps", "0", "--rollout.prompts-per-step", "4")
    assert done.returncode == 0, done.stderr


def test_another_reward_and_bound_need_no_new_samples(profiled, tiny_student, few_data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(profiled[0], out)
    samples = (out / "samples.jsonl").read_bytes()
    flags = ("--resume", "--reward.elements", "latex", "--max-mean", "0.8")
    done = srl("profile", few_data, "--model", tiny_student, "--out", out, *FLAGS, *flags)
    assert done.returncode == 0, done.stderr
    assert "30 of 30 steps are sampled already" in done.stdout
    assert (out / "samples.jsonl").read_bytes() == samples
    kept = {(row["trajectory_id"], row["step_index"]) for row in lines(out / "train.steps.jsonl")}
    judged = lines(out / "profile.jsonl")
    assert kept == {(j["trajectory_id"], j["step_index"]) for j in judged if j["mean"] < 0.8 and j["std"] > 0.01}
    assert json.loads((out / "report.json").read_text())["profile"]["reward"]["elements"] == "latex"


def test_it_goes_on_after_a_stop_and_draws_the_same(profiled, tiny_student, few_data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    whole = (profiled[0] / "samples.jsonl").read_bytes()

    def stopping(path, rows):
        append(path, rows)
        if len(lines(path)) == 11:
            raise KeyboardInterrupt

    append = profiles.append
    monkeypatch.setattr(profiles, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        profile(few_data, str(tiny_student), out, OPTIONS, Reward(), Bounds())
    monkeypatch.undo()
    assert not (out / "train.steps.jsonl").exists()
    assert_one_line(srl("train", write_recipe(tmp_path / "r.toml", model="x", data=out)), "")
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"row": 11, "compl')  # what a kill leaves
    done = srl("profile", few_data, "--model", tiny_student, "--out", out, *FLAGS)
    assert "--resume it, or --overwrite it" in done.stderr
    assert srl("profile", few_data, "--model", tiny_student, "--out", out, *FLAGS, "--resume").returncode == 0
    assert (out / "samples.jsonl").read_bytes() == whole
    assert (out / "train.steps.jsonl").read_bytes() == (profiled[0] / "train.steps.jsonl").read_bytes()


def test_long_prompts_are_left_out_and_none_kept_is_an_error(tiny_student, few_data, tmp_path):
    out = tmp_path / "out"
    shortest = ("--max-prompt-length", "1")
    done = srl("profile", few_data, "--model", tiny_student, "--out", out, *FLAGS, *shortest)
    assert done.returncode == 2
    assert "30  left out: prompt too long" in done.stdout
    assert "none of 30 steps can be kept" in done.stderr
    assert not (out / "train.steps.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 1}, "--samples must be 2 or more"),
        ({"temperature": 0.0}, "--temperature"),
        ({"reward": Reward(format_term="separate")}, "a profile takes similarity"),
        ({"reward": Reward(expert_logprob_weight=0.5)}, "the others need the trainer"),
        ({"model": "name"}, "--served-as names the model of a server"),
        ({"out": "data"}, "another folder than the data"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_student, few_data, tmp_path, change, message):
    reward = change.pop("reward", Reward())
    out = few_data if change.pop("out", None) else tmp_path / "out"
    model = change.pop("model", None)
    with pytest.raises(UserError, match=message):
        profile(few_data, str(tiny_student), out, ProfileOptions(**change), reward, Bounds(), model=model)
    assert not (tmp_path / "out").exists()


def test_a_server_is_asked_too(few_data, tmp_path):
    with serving(lambda request: completion("<think>a</think>1 next" if request["seed"] % 2 else "rubbish")) as server:
        outcomes = profile(few_data, server.url, tmp_path / "out", OPTIONS, Reward(), Bounds(), model="tiny")
    assert outcomes["kept"] == len(lines(tmp_path / "out" / "train.steps.jsonl")) > 0
    assert {len(line["completions"]) for line in lines(tmp_path / "out" / "samples.jsonl")} == {4}


@pytest.mark.parametrize("own", [False, True])
def test_steps_that_the_server_finds_too_long_are_left_out(few_data, tmp_path, own):
    expert = {row["prompt"][-1]["content"]: row["expert_action"] for row in lines(few_data / "train.steps.jsonl")}
    long = lines(few_data / "train.steps.jsonl")[0]["prompt"]

    def reply(request):
        if request["messages"] == long:
            return refusal("the request exceeds the available context size")
        right = expert[request["messages"][-1]["content"]]
        return completion(f"<think>a</think>{right}" if request["seed"] % 2 else "rubbish")

    with serving(reply) as server:
        outcomes = profile(few_data, server.url, tmp_path / "out", OPTIONS, Reward(), Bounds(own=own), model="tiny")
    assert outcomes["prompt too long"] == 1
    assert outcomes["kept"] > 0


def test_the_models_own_right_steps_become_rows_for_sft(few_data, tmp_path):
    rows = lines(few_data / "train.steps.jsonl")
    expert = {row["prompt"][-1]["content"]: row["expert_action"] for row in rows}

    def answer(request):
        """One thought of two where it is right; every fourth completion is."""
        right = expert[request["messages"][-1]["content"]]
        seed = request["seed"]
        return completion(f"<think>thought {seed % 2}</think>{right if seed % 4 < 2 else 'else'}")

    out, options = tmp_path / "out", ProfileOptions(samples=8, max_completion_length=12)
    with serving(answer) as server:
        outcomes = profile(few_data, server.url, out, options, Reward(), Bounds(own=True), model="tiny")
    sampled = {line["row"]: line["completions"] for line in lines(out / "samples.jsonl")}
    expected = []
    for index, row in enumerate(rows):
        right = dict.fromkeys(text for text, _ in sampled[index] if not text.endswith("else"))
        expected += [{**row, "thought": text[7:16]} for text in right]
    assert lines(out / "train.steps.jsonl") == expected
    assert 0 < outcomes["kept"] <= 30 < len(expected)
    assert rows_file(out, "train.problems").read_bytes() == rows_file(few_data, "train.problems").read_bytes()


def test_whole_solutions_are_sampled_and_the_right_ones_kept(few_data, tmp_path, tiny_student):
    problems = lines(few_data / "train.problems.jsonl")[:6]
    data = tmp_path / "data"
    shutil.copytree(few_data, data)
    problems.append({**problems[0], "trajectory_id": "open", "answer": None})  # nobody knows: it is not asked
    (data / "train.problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    known = {row["prompt"][-1]["content"]: row["answer"] for row in problems[:6]}

    def answer(request):
        right = request["seed"] % 2 and known[request["messages"][-1]["content"]] != problems[5]["answer"]
        told = known[request["messages"][-1]["content"]] if right else "12345678"
        return completion(f"So \\boxed{{{told}}}")

    options = ProfileOptions(rows="problems", samples=4, max_completion_length=12)
    with serving(answer) as server:
        profile(data, server.url, tmp_path / "own", options, Reward(), Bounds(own=True), model="tiny")
        profile(data, server.url, tmp_path / "kept", options, Reward(), Bounds(), model="tiny")
    judged = {line["trajectory_id"]: line for line in lines(tmp_path / "own/profile.jsonl")}
    assert len(judged) == 6
    right = [row for row in problems[:6] if max(judged[row["trajectory_id"]]["rewards"]) == 1]
    assert 0 < len(right) < 6
    assert lines(tmp_path / "own/train.problems.jsonl") == [
        {**row, "solution": f"So \\boxed{{{row['answer']}}}", "thought": None} for row in right
    ]
    assert all(row in problems for row in lines(tmp_path / "kept/train.problems.jsonl"))
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tmp_path / "own", max_steps=1)
    flags = ("--stage", "sft", "--sft.target", "solution", "--validation.eval-steps", "0", "--sft.rows-per-step", "2")
    done = srl("train", recipe, *flags, "--optim.per-device-train-batch-size", "2")
    assert done.returncode == 0, done.stderr


def test_nothing_right_is_its_own_error(few_data, tmp_path):
    with serving(lambda request: completion("rubbish")) as server, pytest.raises(NothingKept, match="none of 30 steps"):
        profile(few_data, server.url, tmp_path / "out", OPTIONS, Reward(), Bounds(own=True), model="tiny")
    assert not (tmp_path / "out/train.steps.jsonl").exists()
