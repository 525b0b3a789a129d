"""Solutions rewritten into steps by a model behind a server: what is asked and kept, what a server may do wrong."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from chat_server import completion, serving

from srl.data.formats.numbered import cut_steps
from srl.data.formats.solutions import Columns
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.engines.protocols import Reply
from srl.engines.rewrite import Original, RewriteOptions, check_reply, read_originals, rewrite, solution_in
from srl.engines.rewrite_prompt import EXAMPLES, rewrite_prompt
from srl.errors import UserError
from srl.files import locked

N = 6
GOOD = "SOLUTION:\n1. **Add the pens** $3 + {0} = {1}$.\n2. **State the sum** Together they are \\boxed{{{1}}}."


def number_in(request):
    return int(re.search(r"There are 3 pens and (\d+) more", request["messages"][-1]["content"])[1])


def good(request):
    n = number_in(request)
    return completion(GOOD.format(n, n + 3), tokens=30)


@pytest.fixture
def source(tmp_path):
    """Solutions in one line, as people write them."""
    rows = [
        {"id": f"pens-{n}", "problem": f"There are 3 pens and {n} more. How many?", "solution": f"3+{n}={n + 3}"}
        | {"answer": f"{n + 3} pens"}
        for n in range(N)
    ]
    path = tmp_path / "pens.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("srl.engines.endpoint.FIRST_WAIT_SECONDS", 0.001)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(source, out, url, *, options=None, **rest):
    return rewrite(source, out, url, "tiny", options or RewriteOptions(answer_field="answer"), **rest)


def test_what_is_kept_is_what_srl_steps_reads(source, tmp_path, capsys):
    with serving(good) as server:
        assert run(source, tmp_path / "r", server.url, price=(1.0, 10.0)) == {"kept": N}
    said = capsys.readouterr().out
    assert re.search(r"6 solutions to rewrite with tiny: about [\d,]+ tokens in, [\d,]+ out; at 1 in and 10 out", said)
    assert "the server counted 6 tokens in, 180 out; at 1 in and 10 out per million, 0.00" in said
    kept = rows_of(tmp_path / "r/solutions.jsonl")
    assert [row["id"] for row in kept] == [f"pens-{n}" for n in range(N)]  # in the source's order
    assert kept[2]["answer"] == "5"
    assert rows_of(tmp_path / "r/discarded.jsonl") == []
    steps = prepare(
        Source(str(tmp_path / "r/solutions.jsonl"), columns=Columns(answer="answer")),
        tmp_path / "steps",
        StepOptions(hold_out=0, targets="all"),
    )
    assert (steps.kept, steps.answers_checked) == (N, N)
    first, second = rows_of(tmp_path / "steps/train.steps.jsonl")[:2]
    assert first["expert_action"] == "1. **Add the pens** $3 + 0 = 3$."
    assert second["expert_action"] == "2. **State the sum** Together they are \\boxed{3}."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The sum is 5.", "no steps: no numbered steps"),
        ("", "no steps: empty solution"),
        ("SOLUTION:", "no steps: empty solution"),
        ("1. **Add** $2 + 3 = \\boxed{5}$", "no steps: only one step"),
        ("1. **Add** $2 + 3 = 5$.\n3. **State** \\boxed{5}", "no steps: numbers not 1..k"),
        ("1. **Add** so\n2. **Add** so\n1. **Add** so\n2. **State** \\boxed{5}", "no steps: numbering restarts"),
        ("1. Add 2 and 3.\n2. State \\boxed{5}.", "a step without a title"),
        ("1. **Add** $2 + 3 = 5$.\n2. So \\boxed{5}.", "a step without a title"),
        (
            "Step 1: Add 2 and 3, which is much more than nothing. Then go on.\nStep 2: \\boxed{5}",
            "a step without a title",
        ),
        ("1. **Add** $2 + 3 = 6$.\n2. **State** It is \\boxed{6}.", "another final answer"),
        ("1. **Add** $2 + 3 = 5$.\n2. **State** That is the sum.", "another final answer"),
        ("1. **Add** $2 + 3 = 5$.\n2. **State** It is \\boxed{5}.", None),
        ("<think>1. Add. 2. State.</think>SOLUTION:\n1. **Add** so\n2. **State** It is \\boxed{5}.", None),
        ("```\nSOLUTION:\n1. **Add** so\n2. **State** It is \\boxed{5}.\n```", None),
        ("**Solution:**\n\n1. **Add** so\n2. **State** so\n\nFinal answer: 5", None),
        ("### Step 1: Add\n2 + 3\n### Step 2: State\n\\boxed{5}", None),
    ],
)
def test_what_is_discarded_and_why(text, reason):
    original = Original(0, "f:1", "0", "p", "s", "5", True)
    solution, found = check_reply(original, Reply(text, 1, truncated=False))
    assert found == reason
    assert (solution is None) == (reason is not None)
    assert check_reply(original, Reply(text, 1, truncated=True)) == (None, "cut off by --max-tokens")


def test_the_examples_pass_the_check_and_ask_for_what_it_asks_for(tmp_path):
    for problem, found, written in EXAMPLES:
        (tmp_path / "e.jsonl").write_text(json.dumps({"problem": problem, "solution": found}) + "\n")
        (original,) = read_originals(tmp_path / "e.jsonl", RewriteOptions())
        assert original.answer is not None
        assert check_reply(original, Reply(written, 1, truncated=False)) == (solution_in(written), None)
        assert cut_steps(solution_in(written)).family == "1. **Title**"
    turns = rewrite_prompt("Q?", "S.")
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert turns[-1]["content"] == "**Question:**\nQ?\n\n**Solution as found:**\nS."


@pytest.mark.parametrize(
    ("row", "answer", "is_known"),
    [
        ({"problem": "p", "solution": "so \\boxed{7}"}, "7", False),
        ({"question": "p", "answer": "2+5=<<2+5=7>>7\n#### 7"}, "7", False),
        ({"problem": "p", "solution": "It is obvious."}, None, False),
        ({"problem": "p", "solution": "so \\boxed{7}", "gold": "\\$8"}, "8", True),
        ({"problem": "p", "solution": "so \\boxed{7}", "gold": "proof"}, "7", False),
        ({"problem": "p", "solution": "so it is", "gold": None}, None, False),
        ({"problem": "p", "solution": "<think>Is it \\boxed{6}?</think>\nAnswer: 7"}, "7", False),
    ],
)
def test_what_a_rewriting_must_come_to(tmp_path, row, answer, is_known):
    (tmp_path / "f.jsonl").write_text(json.dumps(row) + "\n")
    options = RewriteOptions(answer_field="gold" if "gold" in row else None)
    (original,) = read_originals(tmp_path / "f.jsonl", options)
    assert (original.answer, original.is_known) == (answer, is_known)
    assert "<think>" not in original.solution


def test_solutions_without_an_answer_are_kept_and_counted(tmp_path, capsys):
    (tmp_path / "f.jsonl").write_text('{"problem": "There are 3 pens and 1 more.", "solution": "It is obvious."}\n')
    with serving(good) as server:
        run(tmp_path / "f.jsonl", tmp_path / "r", server.url, options=RewriteOptions())
    assert "1  have no final answer to hold the rewriting against" in capsys.readouterr().out
    (row,) = rows_of(tmp_path / "r/solutions.jsonl")
    assert "answer" not in row


def test_requests_carry_what_decides_the_replies(source, tmp_path):
    with serving(good) as server:
        options = RewriteOptions(answer_field="answer", max_tokens=99, temperature=0.5, seed=7, limit=4)
        run(source, tmp_path / "r", server.url, options=options)
        asked = server.requests
    assert {(r["model"], r["max_tokens"], r["temperature"]) for r in asked} == {("tiny", 99, 0.5)}
    assert sorted(r["seed"] for r in asked) == [7, 8, 9, 10]
    assert all(len(r["messages"]) == 6 for r in asked)


def test_the_cost_is_said_before_anything_is_asked(source, tmp_path, capsys):
    said_before = []

    def reply(request):
        said_before.append(capsys.readouterr().out)
        return good(request)

    with serving(reply) as server:
        run(source, tmp_path / "r", server.url, check=True)
        assert "6 solutions to rewrite" in capsys.readouterr().out
        assert not server.requests
        assert not (tmp_path / "r").exists()
        run(source, tmp_path / "r", server.url, concurrency=1)
    assert "6 solutions to rewrite" in said_before[0]


def test_so_many_are_asked_at_a_time_and_no_more(source, tmp_path):
    lock, now, most = threading.Lock(), 0, 0

    def reply(request):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return good(request)

    with serving(reply) as server:
        run(source, tmp_path / "r", server.url, concurrency=3)
    assert most == 3


def test_a_server_that_fails_for_a_while_is_asked_again(source, tmp_path, capsys):
    failures = [503, 429, b'{"choices": [{"index": 0, "mess', {"error": "?"}, [1, 2], 500]
    failing = iter(failures)
    with serving(lambda request: next(failing, None) or good(request)) as server:
        assert run(source, tmp_path / "r", server.url) == {"kept": N}
        assert len(server.requests) == N + len(failures)
    assert "tried again: 2 × not a chat completion" in capsys.readouterr().out


@pytest.mark.parametrize("failure", [500, b'{"choices": [{"index"', {"choices": []}, completion(4)])
def test_a_server_that_keeps_failing_loses_nothing(source, tmp_path, failure):
    working = itertools.count()
    with serving(lambda request: good(request) if next(working) < 3 else failure) as server:
        with pytest.raises(UserError, match=r"failed 6 times, the last time with: .*--resume"):
            run(source, tmp_path / "r", server.url, concurrency=1)
        assert len(rows_of(tmp_path / "r/replies.jsonl")) == 3
        assert not (tmp_path / "r/solutions.jsonl").exists()
        server.reply = good
        server.requests.clear()
        assert run(source, tmp_path / "r", server.url, resume=True) == {"kept": N}
        assert len(server.requests) == N - 3
        run(source, tmp_path / "r", server.url, resume=True)  # nothing is missing
        assert len(server.requests) == N - 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda _: 400, "refused the request"),
        (lambda _: completion("no"), r"none of 6 replies could be used; .*replies.jsonl has them"),
        (lambda _: completion("1" * 10_000, "length"), "none of 6 replies could be used"),
        (lambda _: completion(None), "none of 6 replies could be used"),
    ],
)
def test_a_server_that_cannot_do_it_is_one_line(source, tmp_path, reply, message):
    with serving(reply) as server:
        with pytest.raises(UserError, match=message) as error:
            run(source, tmp_path / "r", server.url)
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match="expected the model `huge`, it has tiny"):
            rewrite(source, tmp_path / "s", server.url, "huge", RewriteOptions())


@pytest.mark.slow
def test_kill_and_resume_loses_and_repeats_nothing(tmp_path):
    source = tmp_path / "pens.jsonl"
    rows = [{"problem": f"There are 3 pens and {n} more.", "solution": f"\\boxed{{{n + 3}}}"} for n in range(60)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "r"

    def slow(request):
        time.sleep(0.05)
        return good(request)

    with serving(slow) as server:
        command = [sys.executable, "-m", "srl.cli", "rewrite", str(source), "--endpoint", server.url, "--model", "tiny"]
        command += ["--out", str(out), "--concurrency", "2"]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        journal = out / "replies.jsonl"
        while not journal.exists() or journal.read_bytes().count(b"\n") < 15:
            time.sleep(0.02)
            assert first.poll() is None
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with journal.open("ab") as file:
            file.write(b'{"index": 5')
        before = journal.read_bytes().count(b"\n")
        server.requests.clear()
        done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"{before} of 60 replies are there already" in done.stdout
        assert len(server.requests) == 60 - before
    assert sorted(line["index"] for line in rows_of(journal)) == list(range(60))
    assert len(rows_of(out / "solutions.jsonl")) == 60


def test_folders_are_not_overwritten_and_resumed_only_with_the_same_options(source, tmp_path):
    with serving(good) as server:
        run(source, tmp_path / "r", server.url)
        with pytest.raises(UserError, match="--resume it, or --overwrite it"):
            run(source, tmp_path / "r", server.url)
        with pytest.raises(UserError, match="cannot resume with other options; differs in source, answer_field, seed"):
            run(source, tmp_path / "r", server.url, resume=True, options=RewriteOptions(seed=1))
        with locked(tmp_path / "r"), pytest.raises(UserError, match="in use by process"):
            run(source, tmp_path / "r", server.url, resume=True)
        source.write_text(source.read_text().replace("3 pens and 1 more", "3 pens and 9 more"))
        with pytest.raises(UserError, match="differs in source"):
            run(source, tmp_path / "r", server.url, resume=True)
        run(source, tmp_path / "r", server.url, overwrite=True)
        assert len(server.requests) == 2 * N


def test_empty_solutions_are_not_asked_about(tmp_path):
    rows = [{"problem": f"There are 3 pens and {n} more.", "solution": f"\\boxed{{{n + 3}}}"} for n in range(4)]
    rows[1]["solution"], rows[2]["solution"] = None, "<think>Three and two.</think>\n"
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(good) as server:
        outcomes = run(tmp_path / "f.jsonl", tmp_path / "r", server.url, options=RewriteOptions())
        assert len(server.requests) == 2
    assert outcomes == {"kept": 2, "nothing to rewrite": 2}
    assert [row["where"][-1] for row in rows_of(tmp_path / "r/discarded.jsonl")] == ["2", "3"]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "?"}, {}, r"f.jsonl:1: expected a problem and a solution, found `text`; name them with"),
        ({"problem": "p", "solution": 4}, {}, r"f.jsonl:1: expected text in `solution`, found 4"),
        ({"problem": " ", "solution": "s"}, {}, r"f.jsonl:1: expected text in `problem`"),
        ({"problem": "p", "solution": "s"}, {"answer_field": "gold"}, r"f.jsonl:1: no field `gold`; it has `problem`"),
        ({"problem": "p", "solution": "s"}, {"limit": 0}, "--limit must be 1 or more"),
    ],
)
def test_bad_input_is_one_line(tmp_path, row, options, message):
    (tmp_path / "f.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        rewrite(tmp_path / "f.jsonl", tmp_path / "r", "http://127.0.0.1:9/v1", "tiny", RewriteOptions(**options))
    assert not (tmp_path / "r").exists()
