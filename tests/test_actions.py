"""Actions of agents, compared by what they do: equal only if they do the same, and never what no harness takes."""

import json
import random
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from srl.data.sources import Found, Source, read_trajectories
from srl.rewards import StepReward
from srl.rewards.actions import action_score, why_no_action
from srl.rewards.actions.calls import NotAnAction, form_of, read_calls
from srl.rewards.actions.shell import KNOWN, split_command
from srl.rewards.functions import MALFORMED
from srl.runs.recipe import Reward

MEASURES = ("actions", "pivotrl", "pivotrl_continuous")
REAL = Path(__file__).parents[2] / "shared/data/swe_trajectories"


def xml(tool, **parameters):
    inner = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in parameters.items())
    return f"<function={tool}>\n{inner}</function>"


def bash(command):
    return xml("bash", command=command)


def replace(old, new, path="/testbed/a.py"):
    return xml("str_replace_editor", command="str_replace", path=path, old_str=f"\n{old}\n", new_str=f"\n{new}\n")


def view(lines=None, path="/testbed/a.py"):
    return xml("str_replace_editor", command="view", path=path, **({"view_range": lines} if lines else {}))


def score(action, expert, measure="actions"):
    return action_score(action, expert, measure)


TEXTS = st.text("ab .*'\"$\\\n#-/=&|;(){}<>`rn", max_size=14).filter(str.strip)
WORDS = [
    *("ls", "grep", "cat", "rm", "find", "cd", "a.py", "src/b.py", "-r", "-n", "-rn", "-A", "3", "'*'", "*", "'a b'"),
    *('"$x"', "$x", "&&", "|", ";", ">", "#", "\n", "("),
]
COMMANDS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)
ACTIONS = st.one_of(
    st.one_of(TEXTS, COMMANDS).map(bash),
    st.builds(replace, TEXTS, TEXTS, st.sampled_from(["/a.py", "/b.py"])),
    st.builds(view, st.sampled_from([None, "[1, 9]", "[5, 20]", "[1, -1]"])),
    st.builds(lambda text: xml("str_replace_editor", command="create", path="/a.py", file_text=text), TEXTS),
    st.builds(lambda text: xml("think", thought=text), TEXTS),
    st.just(xml("submit")),
)


@given(ACTIONS, ACTIONS)
def test_similarity_is_symmetric_in_the_unit_interval_and_one_only_for_what_does_the_same(one, other):
    for action in (one, other):
        assume(why_no_action(action, xml("submit")) is None)
    similarity = score(one, other)
    assert score(other, one) == similarity
    assert 0 <= similarity <= 1
    assert score(one, one) == 1.0
    if similarity == 1.0 and one != other:
        calls = [read_calls(action, form_of(action))[0] for action in (one, other)]
        commands = [call.shell_command for call in calls]
        assert None not in commands  # only a command line may be written in several ways
        assert split_command(commands[0]).words == split_command(commands[1]).words


SPELLINGS = (
    *(("a", "'a'", '"a"', "\\a", "a''"), ("*", "'*'", '"*"', "\\*"), ("$V", '"$V"', "'$V'", "\\$V", '"\\$V"', "${V}")),
    *(
        ("a b", "'a b'", "a\\ b", '"a  b"', "'a  b'"),
        ("if", "'if'", "\"'if'\""),
        ("{a,b}", "'{a,b}'"),
        ("~", "'~'", "\\~"),
    ),
    *(
        ("", "''", '""'),
        ("#c", "'#c'", "a#c", "\\#c"),
        ("; f", "';' f", ";f", "\n f", "\n\nf"),
        ("| cat", "'|' cat", "|cat"),
    ),
    *(("&& f", "'&&' f", "&&f"), ("$(f b)", "$( f b)", "$(f b)a", '"$(f b)"', '"$(f  b)"'), ("2>&1", "2 >&1", "2>& 1")),
    *(
        ("<<<a", "<<< a", "'<<<a'"),
        ("$'a'", "'a'", '$"a"'),
        ("a\\\nb", "ab", "a \\\n b"),
        ("A=1 f", "'A=1' f", "A=1  f"),
    ),
    (" <<E\n$V  a\nE\nf", " <<'E'\n$V  a\nE\nf", " <<E\n$V a\nE\nf", " << E\n$V  a\nE\n\nf", " <<-E\n$V  a\n\tE\nf"),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=3), st.data())
def test_equal_words_do_the_same_in_a_real_shell(spellings, data):
    """`f` prints its arguments, each between brackets; the folder has files that `*` stands for."""
    blanks = st.sampled_from([" ", "  ", " \\\n"])
    one, other = (
        "f" + "".join(data.draw(blanks) + data.draw(st.sampled_from(group)) for group in spellings) for _ in range(2)
    )
    if one == other or split_command(one).words != split_command(other).words:
        return  # about half of them
    setup = "set +H; HOME=/h; V='x  y'; f() { printf '[%s]' \"$@\"; echo; cat; }\n"
    ran = [
        subprocess.run(
            ["bash", "-c", setup + text], input=b"", capture_output=True, check=False, cwd=Path(__file__).parent
        )
        for text in (one, other)
    ]
    assert (ran[0].stdout, ran[0].returncode) == (ran[1].stdout, ran[1].returncode)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ls -l -a src", "ls -la  src"),
        ("ls -la src", "ls src -al"),
        ("grep -rn 'x' .", 'grep -n -r "x" .'),
        ("grep -A 3 -B5 x f", "grep -B 5 x f -A3"),
        ("grep --include='*.py' -r x", "grep -r --include='*.py' x"),
        ("find . -type f -name '*.py' | wc -l", "find . -name '*.py' -type f|wc -l"),
        ("cd /testbed&&python a.py", "cd  /testbed && \\\n python a.py\n"),
        ("cat <<'EOF' > a\nit's\nEOF", "cat <<'END' >a\nit's\nEND\n"),
    ],
)
def test_commands_that_do_the_same(one, other):
    assert score(bash(one), bash(other)) == score(bash(other), bash(one)) == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cp a b", "cp b a"),
        ("ls *.py", "ls '*.py'"),
        ("echo $HOME", "echo '$HOME'"),
        ('echo "$HOME"', "echo $HOME"),
        ("a && b", 'a "&&" b'),
        ("a && b", "b && a"),
        ("a 2>b", "a 2 >b"),
        ("find . -delete -name x", "find . -name x -delete"),
        ("find . -name a -o -name b -type f", "find . -type f -o -name b -name a"),
        ("grep -A 3 -B 5 x f", "grep -A 5 -B 3 x f"),
        ("grep -E -F x f", "grep -F -E x f"),
        ("grep -e a -f b", "grep -f b -e a"),
        ("head -n 1 -n 2 f", "head -n 2 -n 1 f"),
        ("tar -x -f a", "tar -f -x a"),
        ("rm -- -r f", "rm -r -- f"),
        ("grep $o -n x", "grep -n $o x"),
        ('echo "$(cat "x  y")"', 'echo "$(cat "x y")"'),
        ("echo $(a)b", "echo $(a) b"),
        ("x=(1 2)", "x= (1 2)"),
        ("((a))", "( (a))"),
        ("echo 'if'", "echo \"'if'\""),
        ("cat <<EOF\n$x\nEOF", "cat <<'EOF'\n$x\nEOF"),
        ("cat <<EOF\na  b\nEOF", "cat <<EOF\na b\nEOF"),
        ("cat 2<<EOF\na  b\nEOF", "cat 2<<EOF\na b\nEOF"),
        ("python -c 'a  b'", "python -c 'a b'"),
        ("echo $'a\\'  b\\' c'", "echo $'a\\' b\\' c'"),
        ("echo 'a", "echo  'a"),
    ],
)
def test_commands_that_do_something_else_never_earn_one(one, other):
    assert score(bash(one), bash(other)) < 1
    assert score(bash(one), bash(other)) == score(bash(other), bash(one))


def test_options_that_may_change_places_do_not_override_one_another():
    """What each program's own tests say for two of them: the files below stay what they are."""
    for program, known in KNOWN.items():
        assert not set(known.flags) & set(known.with_value), program
        assert len(set(known.flags)) == len(known.flags), program


def test_the_order_of_scores():
    """A policy that comes nearer to the expert's action earns more."""
    old, new = "def f(a):\n    return a\n", "def f(a):\n    if a:\n        return a + 1\n    return 0\n"
    half = "def f(a):\n    if a:\n        return a\n"
    expert = replace(old, new)
    nearer = [
        bash("ls"),
        replace(old, new, path="/testbed/b.py"),
        replace(old, old),
        replace(old, half),
        replace("    return a\n", new.removeprefix("def f(a):\n")),
        expert,
    ]
    scores = [score(action, expert) for action in nearer]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
    assert (scores[0], scores[1], scores[-1]) == (0, 0.2, 1)
    assert scores[4] > 0.9, "the same change, with less of the file around it"


def test_views_by_the_lines_that_they_show():
    assert score(view("[1, 100]"), view("[1, 100]")) == score(view("[1,100]"), view("[1, 100]")) == 1
    assert score(view("[51, 150]"), view("[1, 100]")) == pytest.approx(0.5 + 0.5 * 50 / 150)
    assert score(view("[200, 300]"), view("[1, 100]")) == score(view(), view("[1, 100]")) == 0.5
    assert score(view("[1, 100]", path="/b.py"), view("[1, 100]")) == 0.2
    assert score(replace("a", "b"), view("[1, 100]")) == 0


def test_an_insertion_is_a_change_like_a_replacement():
    insert = xml("str_replace_editor", command="insert", path="/testbed/a.py", insert_line="3", new_str="    x = 1")
    same_change = score(replace("def f():", "def f():\n    x = 1"), insert)
    assert 0.9 < same_change < 1
    assert score(replace("def f():", "def f():\n    return 7"), insert) < same_change


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("ls", "no function call"),
        (bash("ls") + bash("ls"), "several function calls"),
        (bash("ls") + "<function=bash>", "several function calls"),
        ("<function=bash>\n<parameter=command>ls</function>", "no function call"),
        ("<function=bash>\nls\n<parameter=command>ls</parameter>\n</function>", "a broken function call"),
        (bash("  "), "a shell without a command"),
        (xml("bash", cmdline="ls"), "a shell without a command"),
        (xml("str_replace_editor", command="view"), "view without path"),
        (xml("str_replace_editor", command="open", path="/a"), "no command of the editor"),
        (xml("str_replace_editor", command="str_replace", path="/a", new_str="x"), "str_replace without old_str"),
        (view("[1, x]"), "no line numbers where the editor wants them"),
        (view("[1]"), "no line numbers where the editor wants them"),
        (view('["1", "2"]'), "no line numbers where the editor wants them"),
        ("```bash\nls\n```", "no function call"),
        ('{"name": "bash", "arguments": {"command": "ls"}}', "no function call"),
    ],
)
def test_what_the_harness_would_not_take_is_malformed(action, reason):
    for expert in (bash("ls"), view("[1, 2]")):
        assert why_no_action(action, expert) == reason
        for measure in MEASURES:
            with pytest.raises(NotAnAction, match=reason):
                action_score(action, expert, measure)
            assert StepReward(Reward(similarity=measure))([f"<think>a</think>{action}"], [expert]) == [MALFORMED]


@pytest.mark.parametrize(
    ("expert", "good", "bad"),
    [
        ("```bash\nls\n```", "I look.\n```bash\n ls\n```", ["ls", "```sh\nls\n```", "```bash\nls", "```bash\n\n```"]),
        (
            '{"name": "read", "arguments": {"path": "a", "n": 1}}',
            '{"arguments": {"n": 1, "path": "a"}, "name": "read"}',
            ["read a", '{"name": "read"}', '{"name": "read", "arguments": []}', "[" * 100_000, "{}\n"],
        ),
        (
            "edit 1:2\na\nend_of_edit",
            " edit 1:2\na\nend_of_edit",
            ["edit 1:2\na", "edit 1:2\n\n", "```\nls\n```", bash("ls")],
        ),
        (
            "str_replace_editor view /a --view_range 1 9",
            "str_replace_editor  view '/a' --view_range 1 9",
            ["str_replace_editor view", "str_replace_editor view /a --view_range 1", "str_replace_editor view '/a"],
        ),
    ],
)
def test_the_other_forms(expert, good, bad):
    assert score(good, expert) == 1
    for action in bad:
        assert why_no_action(action, expert), action


@given(
    st.text(),
    st.sampled_from(
        [bash("ls"), "```bash\nls\n```", "ls -l", '{"name": "a", "arguments": {}}', "edit 1:1\nend_of_edit"]
    ),
)
def test_any_text_at_all_is_judged(text, expert):
    """Whatever a policy writes earns something in [−1, 1], and 1 only if it is read as the expert's action."""
    for measure in MEASURES:
        (earned,) = StepReward(Reward(similarity=measure))([f"<think>a</think>{text}"], [expert])
        assert earned == MALFORMED or 0 <= earned <= 1


def test_arguments_of_other_types_are_other_arguments():
    calls = [json.dumps({"name": "read", "arguments": {"n": value}}) for value in (1, 1.0, True, "1", [1], None)]
    for index, one in enumerate(calls):
        assert [score(one, other) == 1 for other in calls] == [index == i for i in range(len(calls))]


def test_what_no_formula_looks_at_still_makes_another_action():
    calls = [json.dumps({"name": "read", "arguments": {"path": "a", "file": file}}) for file in "bc"]
    assert score(calls[0], calls[1]) == 0.99
    created = [xml("str_replace_editor", command="create", path="/a", file_text="a", mode=mode) for mode in "bc"]
    assert score(created[0], created[1]) == 0.99


def test_several_calls_are_compared_in_order():
    one, two = ('{"name": "a", "arguments": {"x": 1}}', '{"name": "b", "arguments": {}}')
    assert score(f"{one}\n{two}", f"{one}\n{two}") == 1
    assert score(one, f"{one}\n{two}") == 0.5
    assert score(f"{two}\n{one}", f"{one}\n{two}") == 0
    assert action_score(one, f"{one}\n{two}", "pivotrl") == 0


def test_an_expert_that_no_harness_takes_is_compared_as_text():
    broken = bash("ls").removesuffix("</function>")
    assert why_no_action("anything", broken) is None
    assert score(broken, broken) == 1
    assert score("abcd", "<function=abce") == pytest.approx(2 * 3 / 18)


@pytest.mark.parametrize(
    ("action", "expert", "binary", "continuous"),
    [
        (bash("cat a/b.py"), bash("cat a/b.py"), 1, 1),
        (bash("cat a/c.py"), bash("cat a/b.py"), 0, 0),  # another file
        (bash("head a/b.py"), bash("cat a/b.py"), 0, 0),  # another program
        (view("[1, 90]"), view("[1, 100]"), 1, 1),
        (view("[1, 70]"), view("[1, 100]"), 0, 0),
        (replace("a" * 10, "b" * 10), replace("a" * 10, "b" * 10), 1, 1 - 0.1 * 21 / 500),
        (replace("a" * 10, "b" * 6 + "cccc"), replace("a" * 10, "b" * 10), 0, 0.75 * (1 - 0.1 * 21 / 500)),
        (replace("a" * 10, "b" * 3 + "c" * 7), replace("a" * 10, "b" * 10), 0, 0),
        (replace("a" * 300, "b" * 300), replace("a" * 300, "b" * 300), 1, 0.9),
        (xml("execute_bash", command="ls -l"), bash("ls -l"), 1, 1),  # another name for the same kind of tool
        (xml("submit"), xml("finish"), 1, 1),
        (xml("submit"), bash("ls"), 0, 0),
    ],
)
def test_pivotrls_reward(action, expert, binary, continuous):
    assert action_score(action, expert, "pivotrl") == binary
    assert action_score(action, expert, "pivotrl_continuous") == pytest.approx(continuous)


@given(ACTIONS, ACTIONS)
def test_pivotrls_reward_is_in_the_unit_interval_and_full_for_the_expert(one, other):
    assume(why_no_action(one, xml("submit")) is None and why_no_action(other, xml("submit")) is None)
    assert action_score(one, other, "pivotrl") in (0, 1)
    assert 0 <= action_score(one, other, "pivotrl_continuous") <= 1
    assert action_score(one, one, "pivotrl") == 1
    assert action_score(one, one, "pivotrl_continuous") >= 0.9


def test_the_separate_format_term_counts_what_no_harness_takes():
    reward = StepReward(Reward(similarity="actions", format_term="separate"))
    completions = [f"<think>a</think>{action}" for action in (bash("ls"), "ls", bash("cat x"))]
    experts = [bash("ls")] * 3
    assert reward(completions, experts) == [1, None, 0]
    assert reward.format_penalty(completions, experts) == [0, MALFORMED, 0]


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared trajectories are not here")
def test_real_actions_are_read_and_earn_one_only_with_themselves():
    files = [path for path in REAL.rglob("*") if path.suffix in (".jsonl", ".traj", ".json")]
    steps = []
    for path in files:
        found = [item for item in read_trajectories(Source(str(path)), Found()) if hasattr(item, "steps")]
        steps += [step.action.strip() for item in found for step in item.steps]
    assert len(steps) > 150
    assert [step for step in steps if why_no_action(step, step) is not None] == []
    assert all(score(step, step) == 1 for step in steps)
    pairs = [
        (one, other)
        for one, other in zip(steps, random.Random(0).sample(steps, len(steps)), strict=True)
        if one != other
    ]
    assert all(score(one, other) < 1 for one, other in pairs if form_of(one) == form_of(other))
    words = [
        split_command(call.shell_command).words
        for step in steps
        for call in read_calls(step, form_of(step))
        if call.shell_command
    ]
    assert sum(line[0][0] == "unread" for line in words) < len(words) / 20


def test_a_word_is_what_shlex_reads():
    for text in ("grep 'a b' c", "python -c 'import os' x", "a\\ b \"c d\" ''"):
        assert [word for _, word in split_command(text).words] == shlex.split(text)
