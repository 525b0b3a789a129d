"""Programs with bugs: what the tests see, what an edit does, what the sandbox says, and how an agent is answered."""

import random
from itertools import islice
from pathlib import Path

import pytest

from srl.data.folder import as_row
from srl.data.steps import step_instances
from srl.engines.protocols import Reply
from srl.errors import UserError
from srl.evaluation.samples import read_samples
from srl.files import read_rows, write_jsonl
from srl.rewards import answer_correctness, reward_functions
from srl.rewards.actions.calls import read_calls
from srl.rewards.repairs import XML, NotApplied, read_repair, repair_outcome, repaired
from srl.rewards.sandbox.programs import Program, pass_their_tests
from srl.rewards.sandbox.walls import why_not
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.recipe import Reward, read_recipe
from srl.study.agents import Agent
from srl.study.domain import read_problems, write_data, write_problems
from srl.study.experiment import Domain
from srl.study.repair import (
    FAILED,
    N_BUGS,
    PASSED,
    TEST,
    as_problem,
    build_repair_tokenizer,
    problems,
    random_program,
    solve,
    student_look,
)
from srl.study.results import write_experiment_results
from srl.study.schedule import run_experiment
from srl.study.step_scores import step_scores

NO_SANDBOX = why_not("namespaces") and why_not("bubblewrap")
needs_sandbox = pytest.mark.skipif(bool(NO_SANDBOX), reason=f"no sandbox here: {NO_SANDBOX}")


def programs(count, seed=0):
    return list(islice(problems(random.Random(seed), 5), count))


# --- the domain -------------------------------------------------------------------------------------------


def test_every_bug_is_seen_by_the_tests_whatever_else_is_repaired():
    for program in programs(40):
        assert len(program.wrong) == N_BUGS
        assert 4 not in program.wrong  # where a hasty student edits
        first, second = program.wrong
        assert not program.passes
        assert not program.with_line(first).passes
        assert not program.with_line(second).passes
        assert program.with_line(first).with_line(second).passes


def test_our_own_reckoning_is_pythons():
    for program in programs(40, seed=1):
        for one in (program, program.with_line(program.wrong[0]), random_program(random.Random(0), 5, ())):
            code = f"{one.source}\n{one.tests.partition('import f')[2]}"
            try:
                exec(code, {})
                passed = True
            except AssertionError:
                passed = False
            assert passed == one.passes


def test_bugs_are_of_all_kinds():
    kinds = set()
    for program in programs(60):
        for index in program.wrong:
            wanted, written = program.wanted[index], program.written[index]
            (changed,) = [name for name in ("left", "sign", "right") if getattr(wanted, name) != getattr(written, name)]
            kinds.add((changed, getattr(wanted, changed).isdigit(), getattr(wanted, changed) in "<>"))
    assert kinds == {
        ("left", False, False),
        ("sign", False, False),
        ("sign", False, True),
        ("right", True, False),
        ("right", False, False),
    }


def test_the_expert_ends_with_tests_that_pass_and_a_hasty_student_does_not():
    rng = random.Random(0)
    for program in programs(20):
        run = solve(program)
        assert [step.observation for step in run.steps[-2:]] == [PASSED, None]
        hasty = solve(program, student_look(rng, 1.0, 0.5), "student")
        assert hasty.steps[-2].observation == FAILED
        for trajectory, right in ((run, True), (hasty, False)):
            problem = as_problem(program, trajectory)
            after = repaired(problem.solution, read_repair(problem.answer, ""))
            wanted = program.with_line(program.wrong[0]).with_line(program.wrong[1])
            assert (after == wanted.repair) == right
            actions = "".join(step.action for step in trajectory.steps[1 : 1 + N_BUGS])
            assert repaired(actions, program.repair) == after


def test_what_the_domain_repeats_is_one_token_and_nothing_is_lost():
    tokenizer = build_repair_tokenizer()
    program = programs(1)[0]
    for trajectory in (solve(program), solve(program, thinker="student")):
        for step in trajectory.steps:
            text = f"<think>{step.thought}</think>\n{step.action}"
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert len(ids) <= 12 + 11 * 5
    assert len(tokenizer.encode(program.source)) < 80


# --- edits and outcome ------------------------------------------------------------------------------------


def edit(old, new, path="/testbed/f.py", command="str_replace"):
    return (
        f"<function=str_replace_editor>\n<parameter=command>{command}</parameter>\n<parameter=path>{path}</parameter>\n"
        f"<parameter=old_str>{old}</parameter>\n<parameter=new_str>{new}</parameter>\n</function>"
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (edit("return", "c", path="/testbed/g.py"), "does not exist"),
        (edit("no such line", "c"), "occurs 0 times"),
        (edit("    ", "c"), "times"),
        (edit("", "c"), "occurs 0 times"),
        ("<function=bash>\n<parameter=command>rm -r /</parameter>\n</function>", "Only str_replace_editor"),
        (edit("c", "d", command="undo_edit"), "Only str_replace_editor"),
    ],
)
def test_what_the_editor_cannot_do_is_answered_and_makes_no_repair(call, said):
    repair = programs(1)[0].repair
    (parsed,) = read_calls(call, XML)
    with pytest.raises(NotApplied, match=said):
        repair.edited(parsed)
    assert repaired(call, repair) is None


def test_a_completion_without_a_call_or_with_an_open_one_is_no_repair():
    repair = programs(1)[0].repair
    assert repaired("I would rather not.", repair) is None
    assert repaired(edit("return", "yield").removesuffix("</function>"), repair) is None
    assert repaired(edit("return", "yield") + "\n\n" + edit("yield", "return"), repair) == repair


HARM = (
    "import os\nos._exit(0)",
    "import sys\nsys.exit()",
    "text = 'a' * (1 << 33)",
    "import os\nos.kill(os.getppid(), 9)",
    "import os\nos.closerange(3, 99)",
    "import socket\nsocket.create_connection(('127.0.0.1', 9))",
    "open('/etc/passwd', 'a')",
    "a syntax error",
)
SLOW_HARM = (
    "while True: pass",
    "import time\ntime.sleep(99)",
    "import os\nwhile True: os.fork()",
    "print('1' * 10**8)\nf = lambda x: 3",
)


@needs_sandbox
@pytest.mark.parametrize("harm", [HARM, pytest.param(SLOW_HARM, marks=pytest.mark.slow)])
def test_programs_that_mean_harm_fail_and_take_no_other_with_them(harm):
    tests = "from f import f\nassert f(1) == 2\n"
    right = "def f(x):\n    return x + 1\n"
    sources = [right, *harm, right + "# another", right.replace("1", "2")]
    found = pass_their_tests([Program("f", source, tests) for source in sources])
    assert found == [True, *[False] * len(harm), True, False]
    assert pass_their_tests([Program("g", right, tests)]) == [False]  # the tests' name, not the program's


@needs_sandbox
def test_the_outcome_is_whether_the_tests_pass():
    chosen = programs(4, seed=3)
    answers = [program.repair.to_json() for program in chosen]
    experts = [as_problem(program, solve(program)).solution for program in chosen]
    half = experts[3][: experts[3].index("</function>") + len("</function>")]
    completions = [[{"role": "assistant", "content": text}] for text in (experts[0], experts[1], "no", half)]
    assert repair_outcome(completions, answers, truncated=[False, True, False, False]) == [1.0, 0.0, 0.0, 0.0]
    recipe = read_recipe(Path("tiny-rlvr"))
    assert reward_functions(recipe.model_copy(update={"reward": Reward(outcome="tests")})) == [repair_outcome]
    assert reward_functions(recipe) == [answer_correctness]


@pytest.mark.parametrize(
    ("stage", "reward", "said"),
    [
        ("srl", Reward(outcome="tests"), "reward.outcome is for the stage rlvr"),
        ("rlvr", Reward(outcome="tests", similarity="actions"), "[reward] is for the stage srl"),
        ("rlvr", Reward(outcome="tests"), None),
    ],
)
def test_a_reward_that_a_stage_does_not_have_is_named(stage, reward, said):
    recipe = read_recipe(Path("tiny-rlvr")).model_copy(update={"stage": stage, "reward": reward})
    assert said == recipe.unused_reward or (said and recipe.unused_reward.startswith(said))


def test_an_answer_that_holds_no_program_is_explained():
    with pytest.raises(UserError, match=r"rows.jsonl:1: reward.outcome = \"tests\" expects a JSON object"):
        read_repair("42", "rows.jsonl:1")


# --- the agent --------------------------------------------------------------------------------------------


def said(thought, action):
    return Reply(f"<think>{thought}</think>\n{action}", 10, truncated=False)


def test_an_agent_that_does_as_the_expert_is_asked_as_in_training():
    program = programs(1)[0]
    run = solve(program)
    instances = list(step_instances(run, targets="all", system_prompt="", context="full"))
    agent = Agent(program.repair, max_steps=8)
    for step, instance in zip(run.steps, instances, strict=True):
        assert agent.prompt == instance.prompt
        agent.take(said("x", step.action))
        if agent.waits_for_tests:
            agent.observe(TEST, PASSED)
    assert agent.end == "stop"
    assert agent.result.program.source == program.with_line(program.wrong[0]).with_line(program.wrong[1]).source


def test_an_agent_hears_of_its_errors_and_ends_for_good():
    repair = programs(1)[0].repair
    agent = Agent(repair, max_steps=3)
    agent.take(said("x", edit("no such line", "c")))
    assert "occurs 0 times" in agent.context
    agent.take(said("x", "<function=bash>\n<parameter=command>ls</parameter>\n</function>"))
    assert agent.context.endswith("Only str_replace_editor's view and str_replace, the tests and submit are here.\n\n")
    agent.take(said("x", edit("c = ", "c  = ")))
    assert agent.end == "not submitted"
    assert agent.result is None
    for text in ("no thought", "<think>x</think>\nno action"):
        agent = Agent(repair, max_steps=3)
        agent.take(Reply(text, 3, truncated=False))
        assert agent.end in ("no <think>", "no function call")
        assert agent.result is None


# --- the experiment ---------------------------------------------------------------------------------------


def test_a_seed_trains_on_no_program_that_is_asked(tmp_path):
    domain = Domain(kind="code-repair", expert_problems=30, validation_problems=10, test_problems=20)
    write_problems(tmp_path, domain)
    asked = {*read_problems(tmp_path, "validation"), *read_problems(tmp_path, "test")}
    assert len(asked) == 30
    write_data(tmp_path, domain, 0, asked)
    rows = [row.value for row in read_rows(tmp_path / "expert/train.problems.jsonl")]
    trained = {row["prompt"][-1]["content"] for row in rows}
    assert len(trained) == 30
    assert not trained & asked
    steps = [row.value for row in read_rows(tmp_path / "expert/train.steps.jsonl")]
    assert len(steps) == 30 * (N_BUGS + 3)
    aloud = [row.value for row in read_rows(tmp_path / "own-thoughts/train.steps.jsonl")]
    assert [row["expert_action"] for row in aloud] == [row["expert_action"] for row in steps]


def test_the_model_that_comes_with_srl_knows_the_calls_and_not_the_plan(tmp_path):
    runs = [solve(program) for program in programs(20, seed=5)]
    instances = (i for run in runs for i in step_instances(run, targets="all", system_prompt="", context="full"))
    write_jsonl(tmp_path / "steps.jsonl", map(as_row, instances))
    found = step_scores(resolve_model("repair-base"), tmp_path / "steps.jsonl", max_tokens=40, batch_size=100)
    assert found["malformed"] < 0.05
    assert 0.55 < found["exact"] < 0.75  # three of five steps are no edits


SMALL = """
title = "small"
base = "repair-base"
samples = 1
max_tokens = 60
comparisons = [["chain", "base"]]

[domain]
kind = "code-repair"
expert_problems = 8
validation_problems = 3
test_problems = 6

[stages.srl]
recipe = "tiny-srl"
data = "expert"
learning_rates = [1e-4]
changes.optim = { max_steps = 1, per_device_train_batch_size = 16 }
changes.rollout = { prompts_per_step = 4, num_generations = 4, dynamic_sampling = false }
changes.reward.similarity = "actions"

[stages.rlvr]
recipe = "tiny-rlvr"
data = "expert"
learning_rates = [1e-4]
changes.optim = { max_steps = 1, per_device_train_batch_size = 16 }
changes.rollout = { prompts_per_step = 4, num_generations = 4, dynamic_sampling = false }
changes.reward.outcome = "tests"
changes.checkpoints.save_steps = 1

[arms.base]
title = "base"

[arms.chain]
title = "SRL → RLVR"
stages = ["srl", "rlvr"]
"""


@pytest.mark.slow
@needs_sandbox
def test_an_experiment_from_programs_to_table(tmp_path):
    path, out = tmp_path / "small.toml", tmp_path / "out"
    path.write_text(SMALL)
    results = write_experiment_results(run_experiment(path, out, n_seeds=1, n_jobs=1), out)
    assert {name: arm["seeds"] for name, arm in results["arms"].items()} == {"base": 1, "chain": 1}
    assert all(len(arm["scores"][column][0]) == 6 for arm in results["arms"].values() for column in arm["scores"])
    metrics = RunFolder(out / "seed-0/srl+rlvr/run").metrics
    assert any("rewards/repair_outcome/mean" in line for line in metrics)
    for sample in read_samples(out / "seed-0/srl+rlvr/test-stepwise"):
        assert 1 <= len(sample.completions) <= 8
        if sample.correct:  # graded anew, in this process
            repair = read_repair(sample.known_answers[0], "")
            assert pass_their_tests([repair.program._replace(source=sample.answer)]) == [True]
