"""How a model is asked: protocols and their ends, prompts and titles as a run was trained with them."""

import json

import pytest

from srl.engines.protocols import Manner, OneAnswer, Reply, Stepwise, manner_of
from srl.errors import UserError


def test_protocols_end_where_they_should():
    def attempt(*texts, truncated=False, max_steps=3):
        steps = Stepwise("p", Manner("s", "a"), max_steps)
        for text in texts:
            assert steps.end is None
            steps.take(Reply(text, 1, truncated))
        return steps.end, steps.solution

    step = "<think>t</think>{}".format
    assert attempt(step("a"), step(r"\boxed{3}")) == ("stop", "a\n\n\\boxed{3}\n\n")
    asked = "asked for the answer"
    assert attempt(step("a"), step("a"), step(r"It is \boxed{3}")) == (asked, "a\n\nIt is \\boxed{3}")
    assert attempt(step("a"), step("b"), step("c"), "3, I think") == (asked, "a\n\nb\n\nc\n\n3, I think")
    assert attempt(step("a"), "no thought") == ("no <think>", "")
    assert attempt(step(r"\boxed{3}"), truncated=True) == ("truncated", "")
    steps = Stepwise("p", Manner("s", "a"), 3)
    steps.take(Reply(step("a"), 1, False))
    assert [turn["content"] for turn in steps.prompt] == ["s", "Question: p\n\nSolution:\na\n\n"]
    steps.take(Reply(step("a"), 1, False))  # the model has no further step: it is asked for the answer
    assert [turn["content"] for turn in steps.prompt] == ["a", "Question: p\n\nSolution:\na\n\n"]
    steps.take(Reply(step(r"\boxed{3}"), 1, truncated=True))
    assert (steps.end, steps.solution) == ("truncated", "")
    answer = OneAnswer("p", "s")
    answer.take(Reply(r"\boxed{3}", 1, True))
    assert (answer.end, answer.solution) == ("truncated", "")
    assert [turn["content"] for turn in answer.prompt] == ["s", "p"]


TITLED = r"""1. **Sort**:
Put them in order.

2. **Take the last**:
It is \boxed{7}."""


def test_a_model_trained_with_titles_is_given_titles_which_it_writes_itself():
    """Its prompts are then those of training, character for character."""
    from srl.data.steps import step_instances
    from srl.records import Step, Trajectory

    texts = TITLED.split("\n\n")
    steps = tuple(Step(text, title=text.splitlines()[0]) for text in texts)
    trained = list(step_instances(Trajectory("t", "p", steps), targets="all", give_title=True, system_prompt="s"))
    assert len(trained) == 2
    attempt = Stepwise("p", Manner("s", "a", give_title=True), max_steps=5)
    for instance in trained:
        assert "Write only the title" in attempt.prompt[0]["content"]
        attempt.take(Reply(f"<think>hm</think>\n{instance.next_title}\nand more", 1, truncated=False))
        assert attempt.prompt == instance.prompt
        attempt.take(Reply(f"<think>hm</think>{instance.expert_action}", 1, truncated=False))
    assert (attempt.end, attempt.solution) == ("stop", TITLED + "\n\n")
    attempt = Stepwise("p", Manner(give_title=True), max_steps=5)
    attempt.take(Reply("<think>hm", 1, truncated=True))
    assert attempt.end == "no title"


def test_a_run_is_asked_as_it_was_trained(tiny_model, tmp_path, capsys):
    """Prompts from files, titles: the data folder and the run note them, sampling and evaluation use them."""
    from srl.cli import main

    solution = {"question": "1 and 7", "deepseek_attempt": TITLED, "answer": "7"}
    (tmp_path / "s.jsonl").write_text(json.dumps(solution) + "\n")
    (tmp_path / "step.txt").write_text("Write my\nnext step.\n")
    (tmp_path / "answer.txt").write_text("Solve it my way.\n")
    data, run_folder = tmp_path / "data", tmp_path / "run"
    prompts = ["--system-prompt", f"@{tmp_path / 'step.txt'}", "--answer-system-prompt", f"@{tmp_path / 'answer.txt'}"]
    fields = ["--problem-field", "question", "--solution-field", "deepseek_attempt", "--answer-field", "answer"]
    split = ["--hold-out", "0", "--targets", "all", "--give-title"]
    main(["steps", str(tmp_path / "s.jsonl"), "--out", str(data), *fields, *split, *prompts])
    noted = json.loads((data / "report.json").read_text())["options"]
    assert noted["system_prompt"] == "Write my\nnext step."
    assert noted["answer_system_prompt"] == "Solve it my way."
    for stage, start, folder in (("srl", tiny_model, run_folder), ("rlvr", run_folder, tmp_path / "later")):
        (tmp_path / "r.toml").write_text(
            f"""
            stage = "{stage}"
            output_dir = "{folder}"
            model.model_name_or_path = "{start}"
            data.path = "{data}"
            optim.max_steps = 1
            rollout.prompts_per_step = 1
            rollout.max_completion_length = 4
            rollout.max_refills = 0
            rollout.min_well_formed = 0
            validation.eval_steps = 0
            """
        )
        main(["train", str(tmp_path / "r.toml")])
        facts = json.loads((folder / "run.json").read_text())["prompts"]
        own = Manner("Write my\nnext step.", "Solve it my way.", give_title=True)
        assert facts == {"step": own.step, "answer": own.answer, "give_title": True, "targets": "all"}
        assert manner_of(str(folder), "stepwise") == own
    given = manner_of(str(run_folder), "stepwise", "Another.", give_title=False)
    assert given == Manner("Another.", own.answer)
    assert manner_of(str(run_folder), "answer", "") == Manner("", "", give_title=True)
    assert manner_of(str(tiny_model), "stepwise") == Manner()
    capsys.readouterr()
    main(["sample", str(run_folder), "--problem", "2 and 5", "--max-completion-length", "4"])
    assert "system prompt 'Write my next step.'…, titles given" in capsys.readouterr().out
    (tmp_path / "b.jsonl").write_text('{"problem": "2 and 5", "answer": "5"}\n')
    (tmp_path / "b.toml").write_text('title = "B"\nfile = "b.jsonl"\n')
    for protocol, prompt in (("answer", own.answer), ("stepwise", own.step)):
        out = tmp_path / protocol
        flags = ["--protocol", protocol, "--max-tokens", "4", "--engine", "transformers"]
        main(["evaluate", str(run_folder), "--benchmarks", str(tmp_path / "b.toml"), "--out", str(out), *flags])
        assert f"asked with system prompt '{' '.join(prompt.split())}'…" in capsys.readouterr().out
        assert json.loads((out / "evaluation.json").read_text())["config"]["system_prompt"] == prompt


def test_a_text_may_come_from_a_file(tmp_path):
    from srl.cli.text_or_file import text_or_file

    (tmp_path / "p.txt").write_text("  My prompt.\n")
    assert text_or_file(f"@{tmp_path / 'p.txt'}") == "My prompt."
    assert [text_or_file(given) for given in (None, "", "plain @ text")] == [None, "", "plain @ text"]
    with pytest.raises(UserError, match="expected a text file after @"):
        text_or_file(f"@{tmp_path / 'nowhere'}")
