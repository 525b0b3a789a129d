"""Golden: the steps of every small sample in tests/samples, exactly."""

import json

import pytest
from format_files import ORDER, SAMPLES, call, read, rows

from srl.data.formats import openhands, swe_smith
from srl.data.steps import step_instances
from srl.errors import Unusable
from srl.files import Row
from srl.records import Problem, Step, StepInstance


def test_openai_messages():
    trajectory = read("openai.jsonl")
    assert trajectory.steps == (
        Step(
            call("cancel", order=7) + "\n" + call("cancel", order=8),  # parallel calls are one action
            observation="7 cancelled\n\n8 is shipped",
            thought="Two orders, two calls.",
        ),
        Step('{"name": "label", "arguments": "not JSON"}', observation="", thought="Shall I send it back?"),
        Step("Order 7 is cancelled – 8 gets a label.", thought="Done."),
    )
    assert trajectory.problem == "Cancel orders 7 and 8, please."
    assert trajectory.instructions == 'You look after orders.\n\n{"type": "function", "function": {"name": "cancel"}}'
    assert trajectory.verified is None
    assert trajectory.metadata == {"where": "openai.jsonl:1", "format": "messages", "skipped_turns": 1}


def test_tau_bench():
    trajectory = read("tau_bench.json")
    assert [step.action for step in trajectory.steps] == [
        "In which flight?",
        call("seat", flight="HAT1", side="window"),
        "You have 14A.",
    ]
    assert [step.observation for step in trajectory.steps] == ["In HAT1.", "14A", "###STOP###"]
    assert trajectory.verified is True
    assert read("tau_bench.json", 1).verified is False


def test_sharegpt():
    trajectory = read("sharegpt.jsonl")
    assert trajectory.steps == (
        Step(call("weather", city="Oslo"), observation='{"celsius": 4}'),
        Step("Four degrees."),
    )
    assert trajectory.instructions == 'You know the weather.\n\n{"name": "weather"}'


def test_agent_instruct_puts_words_into_the_experts_mouth():
    trajectory = read("agent_instruct.jsonl")
    assert trajectory.problem.startswith("You answer questions")
    assert trajectory.problem.endswith("\n\nHow many files are in /etc?")
    assert trajectory.steps == (
        Step(
            "bash\n\n```bash\nls /etc | wc -l\n```", observation="The output of the OS:\n\n220", thought="I count them."
        ),
        Step("answer(220)", thought="That is it."),
    )


def test_llama_factory():
    roll = call("roll", sides=6)
    assert read("llama_factory.jsonl").steps == (
        Step(f"{roll}\n{roll}", observation="[3, 5]", thought="Roll twice."),
        Step("3 and 5.", thought="Tell it."),
    )


def test_verifiers_results():
    trajectory = read("verifiers.jsonl")
    assert trajectory.steps == (Step(call("search", q="Peru"), observation="Lima is the capital."), Step("Lima"))
    assert (trajectory.problem, trajectory.instructions, trajectory.verified) == ("Capital of Peru?", "Search.", True)


def test_calls_written_into_the_text():
    assert read("hermes.jsonl").steps == (
        Step(call("price", of="tea"), observation="<tool_response>\n3\n</tool_response>", thought="I look it up."),
        Step("Three."),
    )


def test_anthropic_blocks():
    assert read("anthropic.jsonl").steps == (
        Step(call("door", side="front"), observation="open", thought="Ask the door.\n\nI check."),
        Step("Yes."),
    )


def test_swe_smith_xml():
    trajectory = read("swe_smith.jsonl")
    assert trajectory.steps == (
        Step(
            "<function=bash>\n<parameter=command>cat add.py</parameter>\n</function>",
            observation="  1\tdef add(a, b):\n  2\t    return a - b",
            thought="I look at it.",
        ),
        Step(
            "<function=edit>\n<parameter=old>a - b</parameter>\n"
            "<parameter=new>a + b  # not </function></parameter>\n</function>",
            observation="edited",
        ),
        Step("<function=submit>\n</function>"),
    )
    assert trajectory.verified is True
    assert trajectory.metadata["skipped_turns"] == 2
    assert trajectory.metadata["instance_id"] == "toy__toy.1"


def test_conversation_as_json_text_in_a_column():
    row = rows(SAMPLES / "swe_smith.jsonl")[0]
    text = {**row, "messages": json.dumps(row["messages"])}
    assert next(reader for reader in ORDER if reader.recognise(text)) is swe_smith
    assert swe_smith.read(Row("w", text), "t").steps == read("swe_smith.jsonl").steps


def test_swe_agent_1():
    trajectory = read("swe_agent_1.traj")
    assert trajectory.steps == (
        Step("ls", observation="add.py\nREADME", thought="I look."),
        Step("submit", observation="diff --git a/add.py b/add.py"),
    )
    assert trajectory.problem == "Our issue: add subtracts."
    assert trajectory.instructions == "You have a shell.\n\nbash: runs a command"
    assert trajectory.verified is None
    assert trajectory.metadata["instance_id"] == "toy__toy-1"


def test_swe_agent_0_that_never_submitted():
    trajectory = read("swe_agent_0.traj")
    assert trajectory.steps == (
        Step("open add.py", observation="[File: add.py (2 lines total)]\n1:def add", thought="I open it."),
    )
    assert trajectory.verified is False


def test_swe_agent_history_without_demonstrations_and_colleagues():
    trajectory = read("swe_agent_history.traj")
    assert trajectory.problem == "Issue: add subtracts."
    assert trajectory.steps == (
        Step("ls", observation="add.py\nREADME", thought="I ask a colleague."),
        Step("submit", thought="Done."),
    )


def test_swe_agent_rows_of_nebius():
    trajectory = read("nebius.jsonl")
    assert trajectory.steps == (
        Step("open add.py", observation="1:def add", thought="It says\n```python\na - b\n```\nso I open it."),
        Step("submit"),
    )
    assert (trajectory.verified, trajectory.instructions) == (False, "SETTING: a shell.")


def test_mini_swe_agent_1():
    trajectory = read("mini_1.traj.json")
    assert trajectory.steps == (
        Step(
            "```bash\ncat add.py\n```",
            observation="<returncode>0</returncode>\n<output>\na - b\n</output>",
            thought="It says\n```python\na - b\n```\nso I look.",
        ),
        Step("```bash\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git diff\n```", observation="diff --git a/add.py"),
    )
    assert trajectory.metadata["skipped_turns"] == 2
    assert trajectory.metadata["exit_status"] == "Submitted"


def test_mini_swe_agent_bare_list():
    trajectory = read("mini_list.traj.json")
    assert [step.action for step in trajectory.steps] == [
        "```mswea_bash_command\necho hello\n```",
        "```mswea_bash_command\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n```",
    ]
    assert (trajectory.problem, trajectory.instructions) == ("Say hello.", "A shell.")


def test_mini_swe_agent_2():
    trajectory = read("mini_2.traj.json")
    assert trajectory.steps == (
        Step(call("bash", command="echo hello"), observation="<returncode>0</returncode>\nhello", thought="I say it."),
        Step(call("bash", command="pwd"), observation="/"),
    )
    assert trajectory.verified is False


def test_openhands_events():
    trajectory = read("openhands_events.json")
    assert trajectory.steps == (
        Step(call("run", command="ls"), observation="add.py", thought="I look."),
        Step(
            call("str_replace_editor", command="str_replace", path="/add.py", old_str="-", new_str="+")
            + "\n"
            + call("execute_bash", command="pytest"),
            observation="edited\n\n1 passed",
            thought="A minus sign!\n\nTwo things.",
        ),
        Step("Is that all?", observation="Yes."),
        Step(call("finish", final_thought="All done.", task_completed="true")),
    )
    assert trajectory.problem == "Fix `add`."
    assert trajectory.instructions == 'You are OpenHands.\n\n{"name": "execute_bash"}'


def test_openhands_observations_find_their_action_in_any_order():
    events = rows(SAMPLES / "openhands_events.json")[0]
    late = [event for event in events if "cause" not in event] + [event for event in events if "cause" in event]
    expected = read("openhands_events.json")
    found = openhands.read(Row("w", late), "t")
    assert [step.action for step in found.steps] == [step.action for step in expected.steps]
    assert [step.observation for step in found.steps] == [step.observation for step in expected.steps]


def test_openhands_pairs_of_an_evaluation():
    trajectory = read("openhands_output.jsonl")
    assert trajectory.steps == (
        Step(call("run_ipython", code="print(1)"), observation="1", thought="I try."),
        Step(call("finish"), thought="Done."),
    )
    assert trajectory.verified is False


def test_openhands_sdk():
    trajectory = read("openhands_sdk.json")
    assert trajectory.steps == (
        Step(
            call("file_editor", command="str_replace", path="/add.py", old_str="-", new_str="+")
            + "\n"
            + call("terminal", command="pytest"),
            observation="edited\n\nno pytest here",
            thought="A minus sign!\n\nTwo calls.\n\nI change it and test.",
        ),
        Step(call("finish", message="Done."), observation="Done."),
    )
    assert trajectory.instructions == 'You are OpenHands.\n\n{"title": "terminal"}'


def test_react():
    trajectory = read("react.jsonl")
    assert trajectory.steps == (
        Step("Search[Faust]", observation="A play by\nGoethe.", thought="I search."),
        Step("Finish[Goethe]", thought="Found."),
    )
    assert (trajectory.problem, trajectory.verified) == ("Who wrote Faust?", True)


def test_react_with_inputs_after_an_example():
    trajectory = read("react.jsonl", 1)
    assert trajectory.problem == "2 + 3?"
    assert trajectory.steps == (
        Step(call("calc", sum=[2, 3]), observation="5", thought="I compute."),
        Step("Final Answer: 5", thought="I know it."),
    )


def test_prm800k():
    trajectory = read("prm800k.jsonl")
    assert [step.action for step in trajectory.steps] == ["We subtract.", "2p = 2", "So p = 1.\n\n# Answer\n\n1"]
    assert (trajectory.answer, trajectory.verified) == ("1", True)
    gave_up = read("prm800k.jsonl", 1)
    assert [step.action for step in gave_up.steps] == ["Halve it."]
    assert gave_up.verified is False


def test_math_shepherd():
    trajectory = read("math_shepherd.jsonl")
    assert trajectory.problem == "Ann has 2 + 3 apples. How many?"
    assert [step.action for step in trajectory.steps] == [
        "Step 1: She has 2 +\n3 of them.",
        "Step 2: That is 5. The answer is: 5",
    ]
    assert (trajectory.answer, trajectory.verified) == ("5", True)
    with pytest.raises(Unusable, match="a step is rated wrong: step 1"):
        read("math_shepherd.jsonl", 1)


def test_stepwise_supervision():
    assert [step.action for step in read("stepwise.jsonl").steps] == ["9.8 is 9.80.", "So 9.8 is larger."]
    with pytest.raises(Unusable, match="a step is rated wrong: step 2"):
        read("stepwise.jsonl", 1)


def test_prompt_completion_stays_as_given():
    system, user = {"role": "system", "content": "Be short."}, {"role": "user", "content": "Colour of the sky?"}
    assert read("prompt_completion.jsonl") == StepInstance(
        "t", 1, (system, user), "Blue.", thought="Air scatters blue."
    )
    assert read("prompt_completion.jsonl", 1) == StepInstance(
        "t", 1, ({"role": "user", "content": "The sky is"},), "blue."
    )


def test_gsm8k():
    trajectory = read("gsm8k.jsonl")
    assert trajectory.steps == (Step("He has 3*4=12 nuts."), Step("He keeps 12-2=10 nuts."), Step("#### 10"))
    assert (trajectory.answer, trajectory.conclusion) == ("10", None)
    assert read("gsm8k.jsonl", 1).answer == "2400"


def test_nemo_gym_pivot():
    pivot = read("nemo_gym.jsonl")
    assert pivot.steps == (
        Step(call("rooms"), observation="hall, attic", thought="Which room?"),
        Step(call("lamp", room="hall")),
    )
    assert (pivot.problem, pivot.only_last, pivot.verified) == ("Light, please.", True, None)
    (instance,) = step_instances(pivot)
    assert (instance.step_index, instance.expert_action, instance.thought) == (2, call("lamp", room="hall"), None)
    assert "hall, attic" in instance.prompt[-1]["content"]
    assert "Which room?" not in str(instance.prompt)
    assert 'You run the house.\n\n{"type": "function", "name": "lamp"' in instance.prompt[0]["content"]


def test_nemo_gym_rollouts_and_problems():
    run = read("nemo_gym.jsonl", 1)
    both = call("lamp", room="attic") + "\n" + call("lamp", room="stairs")
    assert run.steps == (Step(both, observation="on\n\non", thought="I switch it on."), Step("Both are on."))
    assert (run.problem, run.verified) == ("Light the attic.", True)
    assert run.metadata["instance_id"] == "house-1"
    assert "secret" not in str([instance.prompt for instance in step_instances(run, targets="all")])
    assert read("nemo_gym.jsonl", 2).verified is False
    assert read("nemo_gym.jsonl", 3) == Problem("t", ({"role": "user", "content": "7 * 6?"},), answer="42")


def test_toolbench():
    trajectory = read("toolbench.json")
    assert trajectory.steps == (
        Step(call("weather", city="Osle"), observation="no such city"),
        Step(call("weather", city="Oslo"), observation="4", thought="A typing error."),
        Step(call("Finish", final_answer="4"), thought="Four."),
    )
    assert (trajectory.problem, trajectory.verified) == ("Weather in Oslo?", True)
    assert trajectory.instructions == 'You use tools.\n\n{"name": "weather"}'


def test_session_log():
    trajectory = read("session_log.jsonl")
    assert trajectory.steps == (
        Step(call("Bash", command="ls"), observation="a.py\nb.py", thought="List them.\n\nI look."),
        Step("Two files.", observation="Thanks."),
    )
    assert (trajectory.id, trajectory.problem) == ("s1", "How many files are here?")
    assert trajectory.metadata["model"] == "m-1"


def test_verl():
    prompt = ({"role": "user", "content": "2 + 2?"},)
    assert read("verl.jsonl") == Problem("t", prompt, answer="4", solution="2 + 2 = 4\n#### 4")
    assert read("verl.jsonl", 1).answer == '["x", "y"]'
