"""`srl rewrite`: a model behind a server rewrites solutions of any kind into numbered, titled steps (paper, v3, B.3).

    rewrite.json       what decides the replies; a run goes on only with the same
    replies.jsonl      every reply, written when it has come, with what became of it
    solutions.jsonl    those that were kept, in the order of the source: what `srl steps` reads
    discarded.jsonl    the others, each with its place and reason

A reply is kept if srl's own cutter finds steps 1..k in it, each with a title, and if its final answer is still that of
the solution: the known answer where there is one, or else the answer that the solution itself ends with.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from srl.data.formats.numbered import NotNumbered, cut_steps
from srl.data.formats.solutions import KNOWN_COLUMNS
from srl.data.formats.thoughts import split_thought
from srl.engines.asking import append, ask_all, goes_on, read_journal
from srl.engines.endpoint import REQUEST_SECONDS, Endpoint
from srl.engines.protocols import Reply
from srl.engines.rewrite_prompt import rewrite_prompt
from srl.errors import UserError
from srl.files import Row, locked, read_rows, write_jsonl
from srl.records import Message
from srl.rewards.answer_text import known_answer, last_box, marked_answer
from srl.rewards.answers import judge
from srl.runs.progress import Progress

RECORD = "rewrite.json"
ANSWER_IN_THE_SOLUTION = ("question", "answer")
"""GSM8K's columns: the solution ends with the answer."""
CHARACTERS_PER_TOKEN = 3.5
"""Of mathematics in English, about: for the estimate before the first token is paid."""
WRITTEN_PER_READ = 1.2
"""A rewritten solution is about so much longer: titles, numbers, a box."""
NOTHING_TO_REWRITE = "nothing to rewrite"
SHORTEST = 600
"""Characters of one whose original is only a line."""


@dataclass(frozen=True)
class RewriteOptions:
    """What is asked of the model, and of which columns."""

    problem_field: str | None = None
    """Column of the problem. Guessed for known data sets, as is the solution's."""
    solution_field: str | None = None
    """Column of the written solution."""
    answer_field: str | None = None
    """Column of the known final answer; without it, what the solution itself ends with must stay the answer."""
    max_tokens: int = 4096
    """Limit of one reply; one that is cut off is discarded."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    seed: int = 0
    limit: int | None = None
    """Rewrite only the first so many: to try it."""


@dataclass(frozen=True, slots=True)
class Original:
    """One solution to rewrite."""

    index: int
    where: str
    id: str
    problem: str
    solution: str
    answer: str | None
    """What the rewritten solution must come to; None: nothing to hold it against."""
    is_known: bool
    """Whether `answer` comes from a column, rather than from the solution."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the model is asked."""
        return rewrite_prompt(self.problem, self.solution)


def rewrite(
    source: Path,
    out: Path,
    endpoint_url: str,
    model: str,
    options: RewriteOptions,
    *,
    price: tuple[float, float] | None = None,
    check: bool = False,
    concurrency: int = 16,
    request_seconds: float = REQUEST_SECONDS,
    resume: bool = False,
    overwrite: bool = False,
) -> Counter[str]:
    """Rewrite the solutions of a file into `out`; with `check` only say what it would cost. Returns the outcomes.

    Raises:
        UserError: unreadable rows, unknown columns, `out` not empty, a server that cannot be asked, nothing kept.
    """
    if options.max_tokens < 1 or options.temperature < 0 or (options.limit is not None and options.limit < 1):
        raise UserError("--max-tokens and --limit must be 1 or more, --temperature 0 or more")
    originals = list(read_originals(source, options))
    if check:
        print(cost_line(originals, model, price))
        return Counter()
    digest = hashlib.sha256(json.dumps([asdict(original) for original in originals]).encode()).hexdigest()
    instructions = hashlib.sha256(json.dumps(rewrite_prompt("", "")).encode()).hexdigest()
    config = {"source": digest, "prompt": instructions, "model": model, **asdict(options)}
    with locked(out):
        journal = out / "replies.jsonl"
        done: dict[int, dict[str, Any]] = {}
        if goes_on(out / RECORD, config, resume=resume, overwrite=overwrite):
            done = {line["index"]: line for line in read_journal(journal, repair=True)}
            print(f"{len(done)} of {len(originals)} replies are there already")
        done |= {o.index: _outcome(o, None, None, NOTHING_TO_REWRITE) for o in originals if not o.solution}
        missing = [original for original in originals if original.index not in done]
        print(cost_line(missing, model, price), flush=True)
        if missing:
            endpoint = Endpoint(endpoint_url, model, options.max_tokens, request_seconds)
            asyncio.run(_ask(endpoint, missing, done, len(originals), journal, options, concurrency))
        return _write(out, originals, done, price)


def read_originals(source: Path, options: RewriteOptions) -> Iterator[Original]:
    """The solutions of a file (JSONL, JSON, parquet, Arrow).

    Raises:
        UserError: a row without the columns, or with something else than text in them.
    """
    for index, row in enumerate(read_rows(source)):
        if index == options.limit:
            return
        problem, solution = _columns(row, options)
        text = split_thought(_text(row, solution))[1].strip()  # thoughts are not rewritten
        known = known_answer(row.value.get(options.answer_field)) if options.answer_field else None
        if options.answer_field and options.answer_field not in row.value:
            raise UserError(f"{row.where}: no field `{options.answer_field}`; it has {_names(row)}")
        if not (question := _text(row, problem).strip()):
            raise UserError(f"{row.where}: expected text in `{problem}`, found {row.value[problem]!r:.60}")
        yield Original(
            index=index,
            where=row.where,
            id=str(row.value.get("id", f"{source.name.split('.')[0]}-{index}")),
            problem=question,
            solution=text,
            answer=known or _own_answer(text),
            is_known=known is not None,
        )


def _columns(row: Row, options: RewriteOptions) -> tuple[str, str]:
    for problem, solution in (*KNOWN_COLUMNS, ANSWER_IN_THE_SOLUTION):
        pair = (options.problem_field or problem, options.solution_field or solution)
        if all(name in row.value for name in pair):
            return pair
    raise UserError(
        f"{row.where}: expected a problem and a solution, found {_names(row)}; name them with --problem-field and "
        "--solution-field"
    )


def _names(row: Row) -> str:
    return ", ".join(f"`{name}`" for name in row.value) or "no field"


def _text(row: Row, name: str) -> str:
    value = row.value[name] or ""
    if not isinstance(value, str):
        raise UserError(f"{row.where}: expected text in `{name}`, found {value!r:.60}")
    return value


def _own_answer(solution: str) -> str | None:
    """What a solution ends with, where it says so; a sentence without such a mark is too little to hold against it."""
    stated = last_box(solution) is not None or marked_answer(solution) is not None
    return known_answer(solution) if stated else None


def cost_line(originals: list[Original], model: str, price: tuple[float, float] | None) -> str:
    """What asking will take, before anything is asked: tokens by the length of the texts, so about."""
    read = sum(len(message["content"]) for original in originals for message in original.prompt)
    written = sum(max(SHORTEST, WRITTEN_PER_READ * len(original.solution)) for original in originals)
    tokens = (read / CHARACTERS_PER_TOKEN, written / CHARACTERS_PER_TOKEN)
    line = f"{len(originals)} solutions to rewrite with {model}: about {_thousands(tokens[0])} tokens in, "
    return line + f"{_thousands(tokens[1])} out{_money(tokens, price, 'about ')}"


def _thousands(tokens: float) -> str:
    return f"{tokens / 1000:,.0f} thousand" if tokens >= 10_000 else f"{tokens:,.0f}"


def _money(tokens: tuple[float, float], price: tuple[float, float] | None, about: str) -> str:
    if price is None:
        return "; give --price IN OUT (per million tokens) to see what it costs" if about else ""
    amount = sum(count * per_million for count, per_million in zip(tokens, price, strict=True)) / 1e6
    return f"; at {price[0]:g} in and {price[1]:g} out per million, {about}{amount:,.2f}"


async def _ask(
    endpoint: Endpoint,
    missing: list[Original],
    done: dict[int, dict[str, Any]],
    total: int,
    journal: Path,
    options: RewriteOptions,
    concurrency: int,
) -> None:
    writing = Lock()
    with Progress("rewriting", total, len(done)) as progress:

        async def ask(original: Original) -> None:
            seed = (options.seed + original.index) % 2**31
            reply = await endpoint.complete(original.prompt, seed, options.temperature)
            await asyncio.to_thread(record, original, reply)

        def record(original: Original, reply: Reply) -> None:
            solution, reason = check_reply(original, reply)
            line = _outcome(original, reply, solution, reason)
            with writing:
                append(journal, [line])
                done[original.index] = line
                kept = sum(line["discarded"] is None for line in done.values())
                progress.update(len(done), f"{kept / len(done):.0%} kept")

        await ask_all(endpoint, missing, ask, concurrency)


def _outcome(original: Original, reply: Reply | None, solution: str | None, reason: str | None) -> dict[str, Any]:
    """A line of the journal."""
    said = asdict(reply or Reply("", 0, truncated=False))
    return {"index": original.index, **said, "solution": solution, "discarded": reason}


def check_reply(original: Original, reply: Reply) -> tuple[str | None, str | None]:
    """The rewritten solution in a reply, or why there is none."""
    if reply.truncated:
        return None, "cut off by --max-tokens"
    solution = solution_in(reply.text)
    try:
        cut = cut_steps(solution)
    except NotNumbered as error:
        return None, f"no steps: {error.reason}"
    if not all(step.title and re.search(r"[^\W\d_]{2}", re.sub(r"(?i)\bstep\b", "", step.title)) for step in cut.steps):
        return None, "a step without a title"
    if original.answer is None:
        return solution, None
    (verdict,) = judge([solution], [original.answer])
    return (solution, None) if verdict.correct else (None, "another final answer")


def solution_in(text: str) -> str:
    r"""The part of a reply that is the solution: without thoughts, a fence around it, and its label.

    >>> solution_in("<think>Two steps.</think>\n```markdown\nSOLUTION:\n1. **Add**: 4\n```")
    '1. **Add**: 4'
    """
    text = split_thought(text)[1].strip()
    if fenced := re.fullmatch(r"```\w*\n(.*?)\n```", text, re.S):
        text = fenced[1].strip()
    labels = list(re.finditer(r"(?im)^[#*_ \t]*(?:rewritten[ \t]+)?solution[*_ \t]*:[*_ \t]*$|^SOLUTION:", text))
    return text[labels[-1].end() :].strip() if labels else text


def _write(
    out: Path, originals: list[Original], done: dict[int, dict[str, Any]], price: tuple[float, float] | None
) -> Counter[str]:
    """Write what was kept and what was not, and print the outcomes."""
    lines = [(original, done[original.index]) for original in originals]
    outcomes = Counter(line["discarded"] or "kept" for _, line in lines)
    n_kept = write_jsonl(
        out / "solutions.jsonl", (_kept_row(o, line["solution"]) for o, line in lines if not line["discarded"])
    )
    write_jsonl(
        out / "discarded.jsonl",
        ({"where": o.where, "id": o.id, "reason": line["discarded"]} for o, line in lines if line["discarded"]),
    )
    tokens = tuple(sum(line[name] or 0 for _, line in lines) for name in ("prompt_tokens", "tokens"))
    print(f"{len(lines)} solutions, kept {n_kept} ({n_kept / len(lines):.1%})")
    for reason, count in outcomes.most_common():
        if reason != "kept":
            print(f"  {count:8d}  discarded: {reason}")
    if unchecked := sum(original.answer is None for original in originals):
        print(f"  {unchecked:8d}  have no final answer to hold the rewriting against (--answer-field)")
    print(f"the server counted {tokens[0]:,} tokens in, {tokens[1]:,} out{_money((tokens[0], tokens[1]), price, '')}")
    if not n_kept:
        raise UserError(f"{out}: none of {len(lines)} replies could be used; {out}/replies.jsonl has them")
    answer = " --answer-field answer" if any(original.is_known for original in originals) else ""
    print(f"wrote {out}/; next: srl steps {out}/solutions.jsonl{answer} --out steps/")
    return outcomes


def _kept_row(original: Original, solution: str) -> dict[str, Any]:
    known = {"answer": original.answer} if original.is_known else {}
    return {"id": original.id, "problem": original.problem, "solution": solution, **known, "source": original.where}
