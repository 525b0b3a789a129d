"""Evaluations from end to end: in this process, and through a server on the loopback."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import date

import pytest
import transformers
import yaml
from chat_server import completion, serving

from srl.errors import UserError
from srl.evaluation.config import EvaluationOptions
from srl.evaluation.evaluate import evaluate
from srl.evaluation.samples import read_samples
from srl.runs.folder import RunFolder
from srl.runs.recipe import ChatOptions, recipe_toml

TAILS = ("(x)", "(x) (x) (x)")  # prompts of unequal length: batches are padded
DIGITS = list(itertools.permutations("1579", 3))[:6]
PROBLEMS = [f"{' '.join(digits)} {TAILS[index % 2]}" for index, digits in enumerate(DIGITS)]


def answer_of(problem):
    return max(problem[:5:2])


@pytest.fixture(scope="module")
def solver(tiny_model, tmp_path_factory):
    """A run folder: the tiny model taught to sort digits step by step, and to box the largest at the end."""
    from srl.data.formats.native import native_row
    from srl.data.prepare import StepOptions, prepare
    from srl.data.sources import Source
    from srl.files import write_jsonl
    from srl.records import Step, Trajectory
    from srl.runs.recipe import Data, Model, Optim, Recipe, Sft, Validation
    from srl.training.train import train

    folder = tmp_path_factory.mktemp("solver")
    rng = random.Random(3)
    trajectories = []
    for index in range(120):
        digits = rng.choices("1579", k=3)
        texts = [*(f"{digit} next" for digit in sorted(digits)), rf"\boxed{{{max(digits)}}}"]
        steps = tuple(Step(text, thought="so") for text in texts)
        trajectories.append(Trajectory(str(index), f"{' '.join(digits)} {TAILS[index % 2]}", steps, max(digits)))
    write_jsonl(folder / "trajectories.jsonl", map(native_row, trajectories))
    options = StepOptions(targets="all", hold_out=0, system_prompt="", answer_system_prompt="")
    prepare(Source(folder / "trajectories.jsonl"), folder / "steps", options)
    train(
        Recipe(
            stage="sft",
            output_dir=folder / "run",
            model=Model(model_name_or_path=str(tiny_model)),
            data=Data(path=folder / "steps"),
            optim=Optim(learning_rate=5e-3, max_steps=90, per_device_train_batch_size=32),
            sft=Sft(rows_per_step=32),
            validation=Validation(eval_steps=0),
        )
    )
    return folder / "run"


@pytest.fixture(scope="module")
def engine(solver):
    from srl.engines.transformers import TransformersEngine

    return TransformersEngine(str(solver / "model"), max_tokens=16)


@pytest.fixture
def benchmark(tmp_path):
    rows = [{"problem": problem, "answer": answer_of(problem)} for problem in PROBLEMS]
    (tmp_path / "max.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "max.toml").write_text('title = "Largest digit"\nfile = "max.jsonl"\n')
    return str(tmp_path / "max.toml")


def served_by(engine):
    """A reply function for the test server; one completion at a time."""
    lock = threading.Lock()

    def reply(request):
        with lock:
            (answer,) = engine.generate([tuple(request["messages"])], [request["seed"]], request["temperature"])
        return completion(answer.text, "length" if answer.truncated else "stop", answer.tokens)

    return reply


def samples(folder):
    return {(s.problem_id, s.mode, s.index): s for s in read_samples(folder)}


def results(folder):
    return json.loads((folder / "results.json").read_text())


def run(source, out, benchmark, resume=False, model=None, **options):
    options = {"max_tokens": 16, "system_prompt": ""} | options
    evaluate(str(source), out, benchmark, EvaluationOptions(**options), model=model, resume=resume)
    return results(out)


def test_samples_of_one_problem_share_it_and_are_those_of_their_seeds(engine):
    """Many samples of a prompt are decoded together over shared keys; each depends on its own seed alone."""
    prompts = [({"role": "user", "content": problem},) for problem in PROBLEMS[:2] for _ in range(4)]
    seeds = list(range(8))
    replies = engine.generate(prompts, seeds, 2.0)
    assert len({reply.text for reply in replies}) > 2
    back = engine.generate(prompts[::-1], seeds[::-1], 2.0)[::-1]
    assert replies == back
    greedy = engine.generate(prompts, seeds, 0.0)
    assert greedy[0] == greedy[3] == engine.generate(prompts[:1], [0], 0.0)[0]


def test_one_prompt_goes_over_shared_keys_and_many_through_generate_to_the_same_end(engine, monkeypatch):
    prompts = [({"role": "user", "content": problem},) for problem in PROBLEMS[:3]]
    many = engine.generate(prompts, [0] * 3, 0.0)
    monkeypatch.setattr(engine.model, "generate", None)
    assert [engine.generate([prompt], [0], 0.0)[0] for prompt in prompts] == many
    with pytest.raises(TypeError):
        engine.generate(prompts, [0] * 3, 0.0)


def test_a_model_whose_positions_start_elsewhere_does_not_sample_over_shared_keys(tmp_path, engine):
    from srl.engines.transformers import TransformersEngine
    from srl.study.tiny import build_tokenizer

    tokenizer = build_tokenizer()
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        is_decoder=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.RobertaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert engine.shares_keys
    assert not TransformersEngine(str(tmp_path), max_tokens=4).shares_keys


STEPWISE = {"protocol": "stepwise", "max_steps": 6}


def test_in_process_and_through_a_server_the_greedy_answers_are_equal(solver, engine, benchmark, tmp_path):
    options = STEPWISE | {"greedy": True, "samples": 2}
    here = run(solver, tmp_path / "here", benchmark, **options, batch_size=4)
    with serving(served_by(engine)) as server:
        there = run(server.url, tmp_path / "there", benchmark, model="tiny", **options)
    ours, theirs = samples(tmp_path / "here"), samples(tmp_path / "there")
    assert ours.keys() == theirs.keys()
    greedy = [key for key in ours if key[1] == "greedy"]
    assert len(greedy) == len(PROBLEMS)
    assert [ours[key] for key in greedy] == [theirs[key] for key in greedy]
    assert here["columns"][0] == there["columns"][0]
    assert here["columns"][0]["score"] > 0  # it has learned something, so there was something to compare
    assert [c["column"] for c in here["columns"]] == ["greedy", "avg@2"]


def test_stepwise_samples_show_their_steps(solver, benchmark, tmp_path):
    run(solver, tmp_path / "e", benchmark, **STEPWISE)
    right = [s for s in samples(tmp_path / "e").values() if s.correct]
    for sample in right:
        assert sample.answer == answer_of(sample.problem)
        assert all(text.startswith("<think>so</think>") for text in sample.completions)
        assert (sample.end, sample.boxed, sample.protocol) == ("stop", True, "stepwise")


def test_an_interrupted_run_draws_the_same_samples(solver, benchmark, tmp_path):
    options = {"samples": 5, "batch_size": 4, "temperature": 1.5}
    run(solver, tmp_path / "whole", benchmark, **options)
    whole = (tmp_path / "whole/samples.jsonl").read_bytes()
    run(solver, tmp_path / "cut", benchmark, **options)
    assert (tmp_path / "cut/samples.jsonl").read_bytes() == whole  # the same seed, the same samples
    lines = whole.splitlines(keepends=True)
    (tmp_path / "cut/samples.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:30])  # killed while writing
    (tmp_path / "cut/results.json").unlink()
    run(solver, tmp_path / "cut", benchmark, resume=True, **options)
    assert (tmp_path / "cut/samples.jsonl").read_bytes() == whole
    assert results(tmp_path / "cut")["columns"] == results(tmp_path / "whole")["columns"]
    run(solver, tmp_path / "other", benchmark, **options | {"seed": 1})
    assert (tmp_path / "other/samples.jsonl").read_bytes() != whole


@pytest.mark.slow
def test_kill_and_resume_loses_and_repeats_nothing(benchmark, tmp_path):
    def reply(request):
        time.sleep(0.05)
        return completion(rf"\boxed{{{request['seed'] % 10}}}", tokens=3)

    command = [sys.executable, "-m", "srl.cli", "evaluate", "--benchmarks", benchmark, "--out", str(tmp_path / "e")]
    command += ["--model", "tiny", "--samples", "20", "--concurrency", "2"]
    lines = tmp_path / "e/samples.jsonl"
    with serving(reply) as server:
        first = subprocess.Popen([*command, server.url], stdout=subprocess.DEVNULL)
        while not lines.exists() or lines.read_bytes().count(b"\n") < 30:
            time.sleep(0.02)
            assert first.poll() is None
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with lines.open("ab") as file:
            file.write(b'{"benchmark": "ma')
        before = [line for line in lines.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        server.requests.clear()
        done = subprocess.run([*command, server.url, "--resume"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"{len(before)} of 120 samples are there already" in done.stdout
        assert len(server.requests) == 120 - len(before)  # only what is missing
    after = lines.read_bytes().splitlines(keepends=True)
    assert after[: len(before)] == before
    seeds = [json.loads(line)["seed"] for line in after]
    assert len(seeds) == len(set(seeds)) == 120


def test_bad_completions_are_counted_as_wrong(benchmark, tmp_path):
    replies = {
        PROBLEMS[0]: completion("1" * 100_000, "length", 100_000),
        PROBLEMS[1]: completion("", tokens=1),
        PROBLEMS[2]: completion(None),
        PROBLEMS[3]: completion(rf"\boxed{{{answer_of(PROBLEMS[3])}}}", "length", 2048),  # right, but cut off
        PROBLEMS[4]: completion(rf"\boxed{{{answer_of(PROBLEMS[4])}}} \ud800", tokens=9),  # half a character
        PROBLEMS[5]: completion(f"The answer is {answer_of(PROBLEMS[5])}.", tokens=6),
    }
    with serving(lambda request: replies[request["messages"][-1]["content"]]) as server:
        found = run(server.url, tmp_path / "e", benchmark, model="tiny")
    (column,) = found["columns"]
    assert column["scores"] == [0, 0, 0, 0, 1, 1]
    assert (column["truncated"], column["unboxed"], column["not_compared"]) == (2 / 6, 5 / 6, 0)
    assert len(samples(tmp_path / "e")["0", "greedy", 0].completions[0]) == 100_000
    assert samples(tmp_path / "e")["2", "greedy", 0].tokens is None
    assert column["mean_tokens"] == (100_000 + 1 + 2048 + 9 + 6) / 5


def test_a_server_that_fails_for_a_while_is_asked_again(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("srl.engines.endpoint.FIRST_WAIT_SECONDS", 0.01)
    failures = [503, 429, b'{"choices": [{"index": 0, "mess', {"error": "?"}, [1, 2], 500]
    failing = itertools.chain(failures, itertools.repeat(completion(r"\boxed{9}")))
    with serving(lambda _: next(failing)) as server:
        run(server.url, tmp_path / "e", benchmark, model="tiny")
        assert len(server.requests) == len(PROBLEMS) + len(failures)
    assert len(samples(tmp_path / "e")) == len(PROBLEMS)


@pytest.mark.parametrize("failure", [500, b'{"choices": [{"index"', {"choices": []}, {"id": 3}])
def test_a_server_that_keeps_failing_ends_the_run_and_loses_nothing(benchmark, tmp_path, monkeypatch, failure):
    monkeypatch.setattr("srl.engines.endpoint.FIRST_WAIT_SECONDS", 0.001)
    working = itertools.chain([completion(r"\boxed{9}")] * 3, itertools.repeat(failure))
    with serving(lambda _: next(working)) as server:
        with pytest.raises(UserError, match=r"failed 6 times, the last time with: .*--resume"):
            evaluate(server.url, tmp_path / "e", benchmark, EvaluationOptions(), model="tiny", concurrency=1)
        assert len(samples(tmp_path / "e")) == 3
        assert not (tmp_path / "e/results.json").exists()
        server.reply = lambda _: completion(r"\boxed{9}")
        evaluate(server.url, tmp_path / "e", benchmark, EvaluationOptions(), model="tiny", resume=True)
    assert len(samples(tmp_path / "e")) == len(PROBLEMS)


def test_servers_that_cannot_work_are_one_line(benchmark, tmp_path):
    with serving(lambda _: 400, models=("tiny", "large")) as server:
        for url, model, message in [
            ("http://127.0.0.1:9/v1", "tiny", "no server answers there"),
            (server.url, "tny", "expected the model `tny`, it has tiny, large; did you mean `tiny`"),
            (server.url, "tiny", "refused the request"),
        ]:
            with pytest.raises(UserError, match=message) as error:
                run(url, tmp_path / model / str(len(url)), benchmark, model=model)
            assert "\n" not in str(error.value)


def test_requests_carry_what_decides_the_samples(benchmark, tmp_path):
    with serving(lambda _: completion(r"\boxed{9}")) as server:
        run(server.url, tmp_path / "e", benchmark, model="tiny", samples=2, greedy=True, max_tokens=77, temperature=0.7)
        asked = server.requests
    assert {(r["temperature"], r["top_p"], r["max_tokens"], r["model"]) for r in asked} == {
        (0.0, 1.0, 77, "tiny"),
        (0.7, 1.0, 77, "tiny"),
    }
    assert len({r["seed"] for r in asked}) == 3 * len(PROBLEMS)
    assert all(0 <= r["seed"] < 2**31 for r in asked)


def test_folders_are_not_overwritten_and_resumed_only_with_the_same_options(benchmark, tmp_path):
    with serving(lambda _: completion(r"\boxed{9}")) as server:
        run(server.url, tmp_path / "e", benchmark, model="tiny")
        with pytest.raises(UserError, match="--resume it, or --overwrite it"):
            run(server.url, tmp_path / "e", benchmark, model="tiny")
        with pytest.raises(UserError, match="differs in max_tokens, seed"):
            run(server.url, tmp_path / "e", benchmark, model="tiny", resume=True, seed=5, max_tokens=3)
        n_asked = len(server.requests)
        run(server.url, tmp_path / "e", benchmark, model="tiny", resume=True)  # nothing is missing
        assert len(server.requests) == n_asked
        (tmp_path / "max.jsonl").write_text('{"problem": "another", "answer": 1}\n')
        with pytest.raises(UserError, match="differs in benchmarks"):
            run(server.url, tmp_path / "e", benchmark, model="tiny", resume=True)


def test_a_plain_model_is_asked_with_chat_options_that_are_recorded(tiny_model, benchmark, tmp_path):
    """A template without a switch for it is told to think by `srl evaluate` as it would be by a recipe."""
    chat = ChatOptions(open_thought=True, template_kwargs={"enable_thinking": True}, today=date(2026, 1, 2))
    plain = run(tiny_model, tmp_path / "plain", benchmark, max_tokens=4)["config"]
    assert (plain["template_kwargs"], plain["open_thought"]) == (None, None)
    found = run(tiny_model, tmp_path / "e", benchmark, max_tokens=4, chat=chat)["config"]
    asked = {"template_kwargs": {"enable_thinking": True}, "open_thought": True, "today": "2026-01-02"}
    assert asked.items() <= found.items()
    assert all(one.completions[0].startswith("<think>") for one in samples(tmp_path / "e").values())
    with pytest.raises(UserError, match="differs in template_kwargs, open_thought"):
        run(tiny_model, tmp_path / "e", benchmark, max_tokens=4, resume=True)
    other = chat.model_copy(update={"today": date(2026, 1, 3)})
    with pytest.raises(UserError, match="differs in today"):
        run(tiny_model, tmp_path / "e", benchmark, max_tokens=4, resume=True, chat=other)
    run(tiny_model, tmp_path / "e", benchmark, max_tokens=4, resume=True, chat=chat)


def test_a_runs_own_chat_options_are_used_and_recorded(solver, benchmark, tmp_path):
    shutil.copytree(solver, tmp_path / "run")
    recipe = RunFolder(solver).recipe
    chat = ChatOptions(open_thought=True, today=date(2026, 1, 2))
    (tmp_path / "run/config.toml").write_text(recipe_toml(recipe.model_copy(update={"chat": chat})))
    found = run(tmp_path / "run", tmp_path / "e", benchmark)["config"]
    assert {"open_thought": True, "today": "2026-01-02", "template_kwargs": None}.items() <= found.items()
    assert all(one.completions[0].startswith("<think>") for one in samples(tmp_path / "e").values())


def test_a_limit_stands_in_the_table_and_is_part_of_the_record(benchmark, tmp_path, capsys):
    with serving(lambda _: completion(r"\boxed{9}")) as server:
        options = EvaluationOptions()
        evaluate(server.url, tmp_path / "e", benchmark, options, model="tiny", limit=2)
        assert "max[:2] (2)" in capsys.readouterr().out
        assert results(tmp_path / "e")["columns"][0]["benchmark"] == "max[:2]"
        with pytest.raises(UserError, match="differs in benchmarks"):
            evaluate(server.url, tmp_path / "e", benchmark, options, model="tiny", resume=True)


def test_a_server_renders_prompts_itself(benchmark, tmp_path):
    with pytest.raises(UserError, match="a server renders the prompts itself"):
        run("http://localhost:1/v1", tmp_path / "e", benchmark, model="m", chat=ChatOptions(open_thought=True))
    assert not (tmp_path / "e").exists()


def test_options_that_make_no_sense(benchmark, tmp_path):
    greedy_only = tmp_path / "g.toml"
    greedy_only.write_text('title = "G"\nfile = "max.jsonl"\ngreedy_only = true\n')
    for source, options, message in [
        ("http://127.0.0.1:9/v1", {}, "--model names the model of a server"),
        ("no/such/folder", {}, "no such folder"),
        (tmp_path, {"samples": -1}, "--samples must be 0 or more"),
        (tmp_path, {"samples": 2, "benchmark": str(greedy_only)}, "g is read greedily only; add --greedy"),
    ]:
        with pytest.raises(UserError, match=message):
            run(source, tmp_path / "e", options.pop("benchmark", benchmark), **options)
        assert not (tmp_path / "e").exists()


def test_results_hold_what_is_needed_to_believe_them(benchmark, tmp_path):
    with serving(lambda r: completion(r"\boxed{9}" if r["seed"] % 2 else "?", tokens=4), models=["org/tiny"]) as server:
        found = run(server.url, tmp_path / "e", benchmark, model="org/tiny", samples=4, greedy=True)
    assert found["schema"] == 1
    assert {"config", "versions", "command", "git_commit", "started", "finished", "average"} <= found.keys()
    assert {"transformers", "math-verify", "openai", "scipy"} <= found["versions"].keys()
    assert found["config"]["benchmarks"]["max"]["sha256"]
    greedy, sampled = found["columns"]
    assert sampled["pass_at"].keys() == {"2", "4"}
    assert sampled["score"] <= sampled["pass_at"]["2"] <= sampled["pass_at"]["4"]
    by_problem = [
        [s.correct for k, s in samples(tmp_path / "e").items() if k[:2] == (str(i), "sampled")] for i in range(6)
    ]
    assert sampled["scores"] == [sum(verdicts) / 4 for verdicts in by_problem]
    assert found["average"]["score"] == pytest.approx((greedy["score"] + sampled["score"]) / 2)
    (card,) = yaml.safe_load((tmp_path / "e/model-card.yaml").read_text())["model-index"]
    assert card["name"] == "tiny"
    assert [m["value"] for m in card["results"][0]["metrics"]] == [
        round(100 * c["score"], 2) for c in (greedy, sampled)
    ]
