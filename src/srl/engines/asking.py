"""Asking a server many questions: each answer is written down at once, and what was stopped goes on.

    RECORD.json    what decides the answers; a run goes on only with the same
    JOURNAL.jsonl  one line per answer, appended when it is there

`srl evaluate` and `srl rewrite` ask this way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from srl.engines.endpoint import Endpoint
from srl.errors import UserError
from srl.files import check_output_folder, clear_folder, write_text
from srl.runs.environment import environment

FIRST_REPLY_SECONDS = 25.0
"""Without any completion after so long, a person wants to know."""

T = TypeVar("T")


def goes_on(record: Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> bool:
    """Prepare the folder of a record; whether there is something to go on from.

    Raises:
        UserError: the folder is not empty and neither flag is given; it is another command's; another configuration.
    """
    folder = record.parent
    if resume and record.is_file():
        before = json.loads(record.read_text())["config"]
        differing = [key for key in config if config[key] != before.get(key)]
        if differing:
            raise UserError(f"{folder}: cannot resume with other options; differs in {', '.join(differing)}")
        return True
    check_output_folder(folder, overwrite=overwrite, marker=record.name, remedies="--resume it, or --overwrite it")
    clear_folder(folder)
    write_text(record, json.dumps({"config": config, **environment()}, indent=2) + "\n")
    return False


def read_journal(path: Path, *, repair: bool = False) -> Iterator[dict[str, Any]]:
    """The lines of a journal, one at a time; `repair` takes off the one that a kill cut short.

    Raises:
        UserError: a line in the middle is broken.
    """
    whole = 0
    if path.is_file():
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield json.loads(line)
                except ValueError:
                    raise UserError(f"{path}:{number}: broken JSON; take the line out and --resume") from None
                whole += len(line)
        if repair and whole < path.stat().st_size:
            with path.open("rb+") as file:
                file.truncate(whole)


def append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a journal; each is whole or, after a kill, recognisably not."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()


async def ask_all(
    endpoint: Endpoint, items: Iterable[T], ask: Callable[[T], Awaitable[None]], concurrency: int
) -> None:
    """Ask about every item, up to `concurrency` at a time; the first failure ends the others.

    If nothing has come back after half a minute, a line says so.

    Raises:
        UserError: `concurrency` under 1, or of the first that failed.
    """
    if concurrency < 1:
        raise UserError(f"--concurrency {concurrency}: expected 1 or more")
    await endpoint.check()
    waiting = iter(items)
    first = asyncio.Event()

    async def work() -> None:
        for item in waiting:
            await ask(item)
            first.set()

    async def say_if_it_hangs() -> None:
        try:
            await asyncio.wait_for(first.wait(), FIRST_REPLY_SECONDS)
        except TimeoutError:
            print(
                f"{endpoint.url}: no completion yet after {FIRST_REPLY_SECONDS:g} s (the limit of one request is "
                f"{endpoint.request_seconds:g} s)",
                flush=True,
            )

    try:
        async with asyncio.TaskGroup() as workers:
            watch = asyncio.create_task(say_if_it_hangs())
            for _ in range(concurrency):
                workers.create_task(work())
    except* UserError as failures:
        raise failures.exceptions[0] from None
    finally:
        watch.cancel()
        print("\n".join(endpoint.failure_lines()), end="\n" if endpoint.failures else "", flush=True)
