"""What each reward for steps says about real expert steps and what a policy may write instead of them.

    python benchmarks/rewards.py [FOLDER]            # ten seconds on one core

FOLDER holds `problems.jsonl` and `solutions.jsonl`: numbered solutions of mathematical problems, joined by `id`
(default: ../shared/data/math_trajectories/deepseek_v3_math). Every action below is one that a policy could
write for a step; it is compared with that step. Prints the tables of docs/rewards.md.
"""

from __future__ import annotations

import random
import statistics
import sys
from functools import partial
from pathlib import Path

from srl.chat.prompts import format_completion
from srl.data.sources import Found, Source, read_trajectories
from srl.data.steps import step_instances
from srl.records import StepInstance, Trajectory
from srl.rewards import StepReward
from srl.rewards.similarity import ratio, ratio_autojunk
from srl.runs.recipe import Reward

FOLDER = Path(__file__).parents[2] / "shared/data/math_trajectories/deepseek_v3_math"
SEED = 0
REWARDS = {
    "characters": Reward(),
    "latex": Reward(elements="latex"),
    "copy penalty 1": Reward(copy_penalty=1.0),
}
LENGTHS = ((0, 200), (200, 400), (400, 100_000))


def main() -> None:
    """Print two tables."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if not folder.is_dir():
        print(f"{folder} is not here: nothing to measure")
        return
    source = Source(folder / "solutions.jsonl", problems=folder / "problems.jsonl")
    trajectories = [item for item in read_trajectories(source, Found()) if isinstance(item, Trajectory)]
    instances = [instance for trajectory in trajectories for instance in step_instances(trajectory, targets="all")]
    actions = written_instead(instances, {t.id: t.problem for t in trajectories}, random.Random(SEED))
    rewards = {name: StepReward(options) for name, options in REWARDS.items()}
    earned = {
        (name, kind): rewarded(reward, pairs) for name, reward in rewards.items() for kind, pairs in actions.items()
    }
    sizes = [len(i.expert_action) for i in instances]
    print(
        f"{len(instances)} steps of {len(trajectories)} solutions, {statistics.mean(sizes):.0f} characters on "
        f"average, seed {SEED}\n"
    )
    print_rewards(list(rewards), actions, earned)
    print_autojunk(actions)


def written_instead(
    instances: list[StepInstance], problems: dict[str, str], rng: random.Random
) -> dict[str, list[tuple[StepInstance, str]]]:
    """Per kind, pairs of (step, action)."""
    words = [word for instance in instances for word in instance.expert_action.split()]
    by_trajectory: dict[str, list[str]] = {}
    for instance in instances:
        by_trajectory.setdefault(instance.trajectory_id, []).append(instance.expert_action)

    def unrelated(instance: StepInstance) -> str:
        other = rng.choice([name for name in by_trajectory if name != instance.trajectory_id])
        return rng.choice(by_trajectory[other])

    def same_problem(instance: StepInstance) -> str:
        steps = by_trajectory[instance.trajectory_id]
        return rng.choice([s for i, s in enumerate(steps, 1) if i != instance.step_index])

    def reworded(instance: StepInstance, share: float) -> str:
        """A share of the words replaced, each by one from anywhere in the data; white space stays."""
        parts = instance.expert_action.split(" ")
        chosen = set(rng.sample(range(len(parts)), round(share * len(parts))))
        return " ".join(rng.choice(words) if i in chosen else part for i, part in enumerate(parts))

    kinds = {
        "unrelated step": unrelated,
        "another step of the problem": same_problem,
        "the problem, copied": lambda instance: problems[instance.trajectory_id],
        "first half only": lambda instance: instance.expert_action[: len(instance.expert_action) // 2],
        "30% of words replaced": partial(reworded, share=0.3),
        "10% of words replaced": partial(reworded, share=0.1),
        "white space changed": lambda instance: " ".join(instance.expert_action.split()),
        "the step itself": lambda instance: instance.expert_action,
    }
    return {kind: [(instance, write(instance)) for instance in instances] for kind, write in kinds.items()}


def rewarded(reward: StepReward, pairs: list[tuple[StepInstance, str]]) -> list[float]:
    """What each action earns, as a well-formed completion."""
    return reward(
        [format_completion("hm", action) for _, action in pairs],
        [instance.expert_action for instance, _ in pairs],
        prompts=[instance.prompt for instance, _ in pairs],
    )


def print_rewards(names: list[str], actions: dict, earned: dict) -> None:
    print(f"| the policy writes | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for kind in actions:
        cells = [
            f"{statistics.mean(e):.3f} ± {statistics.stdev(e):.2f}" for e in (earned[name, kind] for name in names)
        ]
        print(f"| {kind} | {' | '.join(cells)} |")


def print_autojunk(actions: dict) -> None:
    """How far difflib's default is from the similarity, by the expert step's length."""
    print("\n| expert's characters | steps | mean error | largest error | error over 0.1 |\n|---|---|---|---|---|")
    errors = [
        (len(expert), abs(ratio(action.strip(), expert) - ratio_autojunk(action.strip(), expert)))
        for pairs in actions.values()
        for expert, action in ((instance.expert_action.strip(), action) for instance, action in pairs)
    ]
    for low, high in LENGTHS:
        inside = [error for length, error in errors if low <= length < high]
        label = f"{low} or more" if high > 10_000 else f"{low} to {high - 1}"
        share = statistics.mean(error > 0.1 for error in inside)
        n_steps = len(inside) // len(actions)
        print(f"| {label} | {n_steps} | {statistics.mean(inside):.3f} | {max(inside):.2f} | {share:.0%} |")


if __name__ == "__main__":
    main()
