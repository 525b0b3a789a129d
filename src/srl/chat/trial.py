"""A chat template is a program that somebody else wrote: it is tried in a process with limits before it is used here.

    python -m srl.chat.trial        # what that process runs: a JSON object on standard input, its length printed

jinja's sandbox keeps a template from the machine, but not from its time and memory: two nested loops over
`range(100000)`, or `"a" * 10 ** 10`, are allowed.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from functools import cache

from srl.errors import UserError

CONVERSATION = [
    {"role": "system", "content": "Think first."},
    {"role": "user", "content": "How much is 2 + 2?"},
]
ARGUMENTS: tuple[dict[str, bool], ...] = ({}, {"enable_thinking": True}, {"thinking": True})
"""Switches that public templates know; a loop may stand behind one."""

CPU_SECONDS, WALL_SECONDS = 2, 300
"""Of rendering, which takes milliseconds; of the whole process, imports included, on a busy machine."""

MEMORY_BYTES = 4 * 2**30
MAX_CHARACTERS = 1_000_000


def check_template(template: str, name: str) -> None:
    """Refuse a template of which a short conversation takes too long, too much memory, or becomes too long.

    What else is wrong with it is found where it is used.

    Raises:
        UserError: the template of `name` is over a limit, and over which.
    """
    if (problem := _problem(template)) is not None:
        raise UserError(f"{name}: its chat template {problem}, for two short turns; use another template")


@cache
def _problem(template: str) -> str | None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "srl.chat.trial"],
            input=json.dumps(template),
            capture_output=True,
            text=True,
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes over {WALL_SECONDS} s"
    if done.returncode == 0:
        length = int(done.stdout)
        return None if length <= MAX_CHARACTERS else f"writes {length:,} characters"
    if done.returncode < 0:  # by the kernel, at the limit of time; it refuses memory by itself
        return f"takes over {CPU_SECONDS} s"
    return f"takes over {MEMORY_BYTES >> 30} GiB of memory" if "MemoryError" in done.stderr else None


def main() -> None:
    """Render within the limits, and print how long the longest rendering is."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    template = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    limit = math.ceil(time.process_time()) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    longest = 0
    for arguments in ARGUMENTS:
        try:
            texts, _ = render_jinja_template(
                [CONVERSATION], chat_template=template, add_generation_prompt=True, **arguments
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError):
            continue  # whoever loads the template says what it cannot render
        longest = max(longest, *map(len, texts))
    print(longest)


if __name__ == "__main__":
    main()
