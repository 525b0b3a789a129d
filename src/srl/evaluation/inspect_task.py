"""The same benchmarks and the same judge as a task of Inspect, for its engines and its viewer.

    pip install 'supervised-rl[inspect]'
    inspect eval srl/benchmark -T name=aime24 --model vllm/NAME --epochs 32 --temperature 1.0
    inspect view

One completion per sample, the paper's protocol; Inspect's own standard error is over samples as well as problems.
"""

from __future__ import annotations

import asyncio

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer, stderr
from inspect_ai.solver import TaskState, generate, system_message

from srl.chat.prompts import ANSWER_SYSTEM_PROMPT
from srl.evaluation.benchmarks import load_benchmark
from srl.rewards.answers import judge


@task
def benchmark(name: str, max_tokens: int = 2048) -> Task:
    """One of srl's benchmarks, or the path of a benchmark file."""
    questions = load_benchmark(name).questions
    return Task(
        dataset=MemoryDataset([Sample(id=q.id, input=q.text, target=list(q.answers)) for q in questions], name=name),
        # `{}` would be a place to fill in, as in \boxed{}.
        solver=[system_message(ANSWER_SYSTEM_PROMPT.replace("{", "{{").replace("}", "}}")), generate()],
        scorer=equality(),
        max_tokens=max_tokens,
    )


@scorer(metrics=[accuracy(), stderr()])
def equality() -> Scorer:
    """What `srl evaluate` finds right; a completion that is cut off is wrong."""

    async def score(state: TaskState, target: Target) -> Score:
        stopped = state.output.stop_reason == "stop"
        texts = [state.output.completion if stopped else ""] * len(target)
        verdicts = await asyncio.to_thread(judge, texts, list(target))
        best = max(verdicts, key=lambda verdict: verdict.correct)
        return Score(
            value=CORRECT if best.correct else INCORRECT,
            answer=best.answer,
            explanation=best.failure or state.output.stop_reason,
        )

    return score
