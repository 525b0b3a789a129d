"""What each reward for agents' steps says about real actions and what a policy may write instead of them.

    python benchmarks/action_rewards.py [FOLDER]            # ten seconds on one core

FOLDER holds trajectories of SWE-smith, SWE-agent and mini-swe-agent (default: ../shared/data/swe_trajectories). Every
action below is one that a policy could write for a step; it is compared with that step. Prints the table of
docs/rewards.md.
"""

from __future__ import annotations

import random
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from srl.chat.prompts import format_completion
from srl.data.sources import Found, Source, read_trajectories
from srl.records import Trajectory
from srl.rewards import StepReward
from srl.runs.recipe import Reward

FOLDER = Path(__file__).parents[2] / "shared/data/swe_trajectories"
REWARDS = {
    "characters": Reward(),
    "actions": Reward(similarity="actions"),
    "PivotRL": Reward(similarity="pivotrl"),
    "PivotRL, continuous": Reward(similarity="pivotrl_continuous"),
}
PATH = re.compile(r"(/[\w./-]*/)(\w+)(\.\w+)")
NEW = re.compile(r"(<parameter=(?:new_str|file_text)>\n)(.*?)(\n</parameter>)", re.DOTALL)


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if not folder.is_dir():
        print(f"{folder} is not here: nothing to measure")
        return
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".jsonl", ".traj", ".json"))
    read = [item for path in files for item in read_trajectories(Source(str(path)), Found())]
    trajectories = [item for item in read if isinstance(item, Trajectory)]
    actions = [step.action.strip() for trajectory in trajectories for step in trajectory.steps]
    print(f"{len(actions)} actions of {len(trajectories)} trajectories, seed 0\n")
    print(f"| the policy writes | steps | {' | '.join(REWARDS)} |")
    print("|---" * (len(REWARDS) + 2) + "|")
    for kind, write in written_instead(actions, random.Random(0)).items():
        pairs = [(action, written) for action in actions if (written := write(action)) is not None]
        cells = [cell(StepReward(options), pairs) for options in REWARDS.values()]
        print(f"| {kind} | {len(pairs)} | {' | '.join(cells)} |")


def cell(reward: StepReward, pairs: list[tuple[str, str]]) -> str:
    """Mean ± standard deviation of what the actions earn, as well-formed completions."""
    earned = reward([format_completion("hm", written) for _, written in pairs], [action for action, _ in pairs])
    values = [value for value in earned if value is not None]
    return f"{statistics.mean(values):.2f} ± {statistics.pstdev(values):.2f}"


def written_instead(actions: list[str], rng: random.Random) -> dict[str, Callable[[str], str | None]]:
    """Per kind, what is written for an action; None where the kind does not apply to it."""

    def another(action: str) -> str:
        alike = [other for other in actions if other[:10] == action[:10] and other != action]
        return rng.choice(alike or actions)

    def other_command(action: str) -> str | None:
        if action.startswith("<function=bash>"):
            return re.sub(r"(<parameter=command>(?:cd \S+ && )?)\S+", r"\1wc", action)
        return None

    def other_pattern(action: str) -> str | None:
        changed = re.sub(r'(grep (?:-\w+ )*)"[^"]*"', r'\1"return None"', action)
        return changed if changed != action else None

    def other_lines(action: str) -> str | None:
        lines = re.search(r"view_range>\[(\d+), (\d+)\]", action)
        if not lines:
            return None
        start, end = int(lines[1]), int(lines[2])
        return action.replace(lines[0], f"view_range>[{(start + end) // 2}, {end + (end - start) // 2}]")

    def reordered(action: str) -> str | None:
        changed = re.sub(r'(-type f) (-name "[^"]*")', r"\2 \1", action)
        changed = re.sub(r'(grep) (-\w+) ("[^"]*") (--include="[^"]*")', r"\1 \4 \3 \2", changed)
        return changed if changed != action else None

    def half(action: str) -> str | None:
        found = NEW.search(action)
        if not found or found[2].count("\n") < 2:
            return None
        lines = found[2].split("\n")
        return action.replace(found[0], found[1] + "\n".join(lines[: len(lines) // 2]) + found[3])

    def less_context(action: str) -> str | None:
        texts = re.search(
            r"(<parameter=old_str>\n)(.*?)(\n</parameter>\n<parameter=new_str>\n)(.*?)(\n</p)", action, re.S
        )
        if not texts:
            return None
        old, new = texts[2].split("\n"), texts[4].split("\n")
        if len(old) < 3 or len(new) < 3 or old[0] != new[0] or old[1] == new[1]:
            return None
        return action.replace(texts[0], "".join((texts[1], "\n".join(old[1:]), texts[3], "\n".join(new[1:]), texts[5])))

    def elsewhere(action: str) -> str | None:
        changed = PATH.sub(r"\1other_\2\3", action, count=1)
        return changed if changed != action else None

    def blanks(action: str) -> str | None:
        changed = re.sub(r"(<parameter=command>)(cd \S+) && ", r"\1 \2  &&  ", action)
        return changed if changed != action else None

    return {
        "some other action": another,
        "another program": other_command,
        "another file": elsewhere,
        "another pattern to search for": other_pattern,
        "half of the lines to view, and as many after them": other_lines,
        "half of the new text of an edit": half,
        "the edit with a line less around it": less_context,
        "flags in another order": reordered,
        "blanks in a shell command": blanks,
        "the action, but its end missing": lambda action: action[:-11] if action.startswith("<function") else None,
        "the action itself": lambda action: action,
    }


if __name__ == "__main__":
    main()
