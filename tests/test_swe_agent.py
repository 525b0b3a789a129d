"""The agent setting: mini-swe-agent, the sandbox and a model's server together; one format with training."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import pytest
from chat_server import completion, refusal, serving
from hostile import BUGGY, FIXED, INSTANCE, SOURCES, diff, leftovers, write_package

from srl.data.formats import mini_swe_agent
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.engines.protocols import Reply
from srl.errors import UserError
from srl.evaluation.config import read_config
from srl.evaluation.swe.instances import instance_row
from srl.evaluation.swe.options import PredictOptions, require_mini
from srl.evaluation.swe.predict import predict
from srl.evaluation.swe.repository import Folder
from srl.evaluation.swe.score import score
from srl.files import Row, write_jsonl
from srl.rewards.sandbox.walls import Limits, find_sandbox

FIX, DIFF = "sed -i 's/a - b/a + b/' calc.py", "git diff -- calc.py > patch.txt"
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt"
RIGHT = (FIX, DIFF, SUBMIT)


def says(command, thought="I see."):
    return f"<think>{thought}</think>\n```mswea_bash_command\n{command}\n```"


@pytest.fixture
def local(tmp_path):
    """A folder of local instances, the same bug several times."""
    folder = write_package(tmp_path)
    row = instance_row(INSTANCE) | {"patch": diff(folder, "calc.py", FIXED)}
    rows = [row | {"instance_id": f"calc__{n}", "problem_statement": f"Issue {n}."} for n in range(3)]
    write_jsonl(folder / "instances.jsonl", rows)
    return folder


def scripted(answers, served=None):
    """A server that gives every issue the same answers in order, and the last of them for ever."""
    lock, asked = threading.Lock(), {}

    def reply(request):
        issue = re.search(r"Issue (\d)\.", json.dumps(request["messages"]))[1]
        with lock:
            number = asked.setdefault(issue, 0)
            asked[issue] += 1
            if served is not None:
                served.append((issue, number, request["messages"]))
        return completion(answers[min(number, len(answers) - 1)], tokens=10)

    return reply


def run(local, out, answers, served=None, limit=1, **options):
    options = PredictOptions(protocol="agent", **options)
    with serving(scripted(answers, served)) as server:
        predict(server.url, local, out, options, model="tiny", limit=limit, concurrency=2)
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return {sample["instance_id"]: sample for sample in samples}


def trajectory(out, name="calc__0.greedy-0"):
    return json.loads((out / "trajectories" / f"{name}.traj.json").read_text())


def observed(out):
    """What the environment answered to each command."""
    return [message["content"] for message in trajectory(out)["messages"] if message["role"] == "user"][1:]


def test_what_needs_the_package_says_so_by_its_extra(local, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minisweagent", None)
    with pytest.raises(UserError, match=r"it is not installed here; pip install 'supervised-rl\[agent\]'"):
        predict("http://127.0.0.1:9/v1", local, tmp_path / "out", PredictOptions(protocol="agent"), model="tiny")
    monkeypatch.undo()
    (tmp_path / "site" / "minisweagent").mkdir(parents=True)
    (tmp_path / "site" / "minisweagent" / "__init__.py").touch()
    (tmp_path / "site" / "mini_swe_agent-1.17.5.dist-info").mkdir()
    (tmp_path / "site" / "mini_swe_agent-1.17.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mini-swe-agent\nVersion: 1.17.5\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(UserError, match=r"expected mini-swe-agent >=2.4,<2.5, found 1.17.5"):
        predict("http://127.0.0.1:9/v1", local, tmp_path / "out", PredictOptions(protocol="agent"), model="tiny")
    assert not (tmp_path / "out").exists()


def test_other_blocks_are_talk_where_version_2_has_its_own():
    talk = "It is in:\n```bash\nls\n```\n"
    turns = [("system", "A shell."), ("user", "Issue."), ("assistant", talk + says("pwd")), ("user", "/")]
    messages = [{"role": role, "content": content} for role, content in turns]
    read = mini_swe_agent.read(Row("here", {"messages": messages}), "one")
    assert [step.action for step in read.steps] == ["```mswea_bash_command\npwd\n```"]


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def package(self):
        if find_spec("minisweagent") is None:
            pytest.skip("the extra `agent` is not installed")
        require_mini()

    def test_it_starts_quietly_and_leaves_no_settings(self, tmp_path):
        code = "import os; from srl.evaluation.swe.options import *; require_mini(); print('MSWEA' in str(os.environ))"
        env = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_an_agent_resolves_and_is_asked_as_srl_steps_asks(self, local, tmp_path):
        out, served = tmp_path / "out", []
        samples = run(local, out, list(map(says, ("ls", *RIGHT))), served, limit=3)
        assert {(sample["end"], sample["tokens"]) for sample in samples.values()} == {("patch", 40)}
        assert samples["calc__1"]["patch"].endswith("-    return a - b\n+    return a + b\n")
        results = score(str(out), local, None, find_sandbox(), limits=Limits(seconds=60))
        assert (results.columns[0].score, results.columns[0].problems) == (1.0, 3)
        assert read_config(out / "evaluation.json").agent.startswith("mini-swe-agent 2.4")

        prepare(Source(out / "trajectories"), tmp_path / "data", StepOptions(targets="all", hold_out=0))
        rows = [json.loads(line) for line in (tmp_path / "data" / "train.steps.jsonl").read_text().splitlines()]
        assert len(rows) == 12
        asked = {(issue, number): messages for issue, number, messages in served}
        for row in rows:
            issue = re.search(r"Issue (\d)\.", row["prompt"][-1]["content"])[1]
            assert row["prompt"] == asked[issue, row["step_index"] - 1]
            assert row["thought"] == "I see."
            assert says(("ls", *RIGHT)[row["step_index"] - 1]).endswith(row["expert_action"])
        assert "[1 earlier step left out]" in asked["0", 3][-1]["content"]
        assert "diff --git" not in "".join(observed(out))

    @pytest.mark.slow
    def test_an_instance_of_a_clone_has_its_commit_as_the_tree(self, local, tmp_path):
        work = local / SOURCES / "calc-1"
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
            subprocess.run([*git, *arguments], cwd=work, check=True)
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], cwd=work, text=True).strip()
        (tmp_path / "clones").mkdir()
        work.rename(tmp_path / "clones" / "o__calc")
        (row, *_) = map(json.loads, (local / "instances.jsonl").read_text().splitlines())
        write_jsonl(tmp_path / "remote.jsonl", [row | {"repo": "o/calc", "base_commit": commit, "tests": []}])
        out, options = tmp_path / "out", PredictOptions(protocol="agent")
        with serving(scripted(list(map(says, ("git log --oneline", *RIGHT))))) as server:
            predict(server.url, tmp_path / "remote.jsonl", out, options, model="tiny", clones=tmp_path / "clones")
        assert " issue\n" in observed(out)[0]  # the history, where the fix may lie, is not there
        assert "+    return a + b" in json.loads((out / "predictions.jsonl").read_text())["model_patch"]

    @pytest.mark.slow
    def test_a_run_that_is_graded_as_wrong_is_no_expert(self, local, tmp_path):
        out = tmp_path / "out"
        assert run(local, out, list(map(says, ("echo >> calc.py", DIFF, SUBMIT))))["calc__0"]["end"] == "patch"
        prepare(Source(out / "trajectories"), tmp_path / "before", StepOptions(hold_out=0))
        assert score(str(out), local, None, find_sandbox(), limits=Limits(seconds=60)).columns[0].score == 0
        assert trajectory(out)["info"]["resolved"] is False
        with pytest.raises(UserError, match="none of 1 trajectories can be used"):
            prepare(Source(out / "trajectories"), tmp_path / "after", StepOptions(hold_out=0))

    @pytest.mark.slow
    def test_a_model_of_whole_runs_is_asked_turn_by_turn_as_in_training(self, local, tmp_path):
        out, served = tmp_path / "out", []
        answers = [says("ls"), "What?", *map(says, RIGHT)]
        assert run(local, out, answers, served, asked_in="turns")["calc__0"]["end"] == "patch"
        prepare(Source(out / "trajectories"), tmp_path / "data", StepOptions(targets="all", hold_out=0))
        (row,) = map(json.loads, (tmp_path / "data" / "train.trajectories.jsonl").read_text().splitlines())
        asked = [messages for _, _, messages in served]
        assert "Format error" in asked.pop(2)[-1]["content"]
        assert asked == [row["prompt"] + row["turns"][: 2 * number] for number in range(4)]
        assert row["turns"][::2] == [{"role": "assistant", "content": says(command)} for command in ("ls", *RIGHT)]

    def test_a_refusal_is_shown_once_and_stays_out_of_later_prompts(self, local, tmp_path):
        out, served = tmp_path / "out", []
        twice = f"{says('ls')}\n{says('pwd', 'Or where?')}"
        samples = run(local, out, ["What?", twice, *map(says, RIGHT)], served)
        assert samples["calc__0"]["end"] == "patch"
        prompts = [messages[-1]["content"] for _, _, messages in served]
        assert prompts[1].startswith(prompts[0])
        assert prompts[2].startswith(prompts[1])
        assert "found 0 actions" in prompts[1]
        assert "found 2 actions" in prompts[2]
        assert "Format error" not in prompts[3]
        extras = [message.get("extra", {}) for message in trajectory(out)["messages"]]
        refused = [extra["model_response"] for extra in extras if "model_response" in extra]
        assert refused == ["What?", twice]

    def test_a_run_that_was_trained_to_be_asked_otherwise_is_said(self, tmp_path, capsys):
        from srl.evaluation.swe.agent import mini_config
        from srl.evaluation.swe.predict import as_trained, open_agent

        options = as_trained("tiny-base", PredictOptions(protocol="agent"))
        assert options.asked_in == "steps"
        of_mini = mini_config()["agent"]["system_template"].strip()
        for prompt, said in (
            (f"{options.asked_with}\n\n{of_mini}", False),
            ("You have the function str_replace.", True),
        ):
            (tmp_path / "run.json").write_text(json.dumps({"prompts": {"step": prompt}}))
            open_agent(str(tmp_path), options, allow_unsandboxed=False)
            assert ("trained with another system prompt than mini-swe-agent's" in capsys.readouterr().out) == said

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("answers", "options", "end"),
        [
            ([says("ls")], {"max_steps": 4}, "step limit"),
            ([says("ls")], {"max_agent_tokens": 25}, "token limit"),
            ([says("ls")], {"max_input_tokens": 100}, "prompt too long"),
            (["I do not know."], {}, "no command in 3 answers"),
            ([says("kill -9 $PPID")], {}, "ended its own sandbox"),
            ([says("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")], {}, "submitted nothing"),
        ],
    )
    def test_what_comes_to_no_patch_has_a_reason(self, local, tmp_path, answers, options, end):
        samples = run(local, tmp_path / "out", answers, **options)
        assert (samples["calc__0"]["end"], samples["calc__0"]["patch"]) == (end, "")
        assert trajectory(tmp_path / "out")["info"]["submission"] == ""

    @pytest.mark.slow
    def test_a_prompt_that_the_server_finds_too_long_ends_that_run_only(self, local, tmp_path):
        working = scripted(list(map(says, RIGHT)))

        def reply(request):
            asked = json.dumps(request["messages"])
            if "Issue 1." in asked and "sed -i" in asked:  # with the first command in it
                return refusal("the request exceeds the available context size")
            return working(request)

        out = tmp_path / "out"
        with serving(reply) as server:
            predict(server.url, local, out, PredictOptions(protocol="agent"), model="tiny")
        samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        ends = {sample["instance_id"]: (sample["end"], bool(sample["patch"])) for sample in samples}
        assert ends == {"calc__0": ("patch", True), "calc__1": ("prompt too long", False), "calc__2": ("patch", True)}
        assert trajectory(out, "calc__1.greedy-0")["info"]["submission"] == ""

    @pytest.mark.slow
    def test_its_commands_run_in_the_sandbox(self, local, tmp_path):
        secret, out = tmp_path / "secret", tmp_path / "out"
        secret.write_text("hush")
        commands = [
            f"cat {secret}; echo x > {secret}; touch {local}/x; rm -rf {local}",
            "yes",
            "sleep 60",
            "(setsid sleep 71 > /dev/null 2>&1 &); echo left; sleep 0.1",
            "pgrep -f 'sleep 7[1]' || echo nothing runs",
            *RIGHT,
        ]
        samples = run(local, out, list(map(says, commands)), command_seconds=1)
        assert samples["calc__0"]["end"] == "patch"
        first, flood, endless, daemon, after, *_ = observed(out)
        assert "No such file or directory" in first
        assert "hush" not in json.dumps(trajectory(out))
        assert secret.read_text() == "hush"
        assert (local / SOURCES / "calc-1" / "calc.py").read_text() == BUGGY
        assert "ended at the limit of what it may print" in flood
        assert len(flood) < 12_000
        assert "ended at the limit of 1 seconds" in endless
        assert "left" in daemon
        assert "nothing runs" in after

    @pytest.mark.slow
    def test_a_server_that_dies_midway_loses_no_instance_that_has_ended(self, local, tmp_path, monkeypatch):
        monkeypatch.setattr("srl.engines.endpoint.FIRST_WAIT_SECONDS", 0.0)
        out, options, served = tmp_path / "out", PredictOptions(protocol="agent"), []
        working = scripted(list(map(says, RIGHT)), served)
        with serving(lambda request: working(request) if len(served) < 5 else 503) as server:
            with pytest.raises(UserError, match=r"failed 6 times.*--resume"):
                predict(server.url, local, out, options, model="tiny", concurrency=1)
            assert [path.name for path in (out / "trajectories").iterdir()] == ["calc__0.greedy-0.traj.json"]
            served.clear()
            server.reply = scripted(list(map(says, RIGHT)), served)
            predict(server.url, local, out, options, model="tiny", resume=True)
        assert sorted((issue, number) for issue, number, _ in served) == [(i, n) for i in "12" for n in range(3)]
        assert len((out / "predictions.jsonl").read_text().splitlines()) == 3

    def test_a_run_that_nobody_waits_for_is_ended_in_the_middle_of_a_command(self, local):
        from srl.evaluation.swe.agent import AgentBudget, AgentRun

        budget = AgentBudget(9, 999, 9999, command_seconds=60, context="paper", asked_in="steps", system_prompt="")
        agent = AgentRun(INSTANCE, Folder(local / SOURCES / "calc-1"), find_sandbox(), budget)
        taking = threading.Thread(target=agent.take, args=(Reply(says("touch begun; sleep 60"), 1, truncated=False),))
        taking.start()
        time.sleep(0.5)
        started = time.monotonic()
        agent.close()
        taking.join()
        assert time.monotonic() - started < 20
        assert leftovers(local) == []

    @pytest.mark.slow
    def test_a_model_in_this_process_is_driven_too(self, local, tmp_path):
        out = tmp_path / "out"
        options = PredictOptions(protocol="agent", max_tokens=4, batch_size=2, samples=1, max_steps=2)
        predict("tiny-base", local, out, options, limit=2)
        samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        assert [(sample["end"], len(sample["completions"])) for sample in samples] == [("step limit", 2)] * 2
        assert len(list((out / "trajectories").iterdir())) == 2
