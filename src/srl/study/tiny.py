"""The embedded setting: a tiny Qwen2 model, its tokenizer, and a domain with a symbolic expert.

The domain is arithmetic modulo 5 on expressions such as `2+3*4-1`, one operation per step, its result written in
place: `2+2__-1`. The expert multiplies first and otherwise goes from left to right; the answer is the list of all
results in that order, so that it cannot be guessed. The expert writes results only: which operation it was and how
it comes out are worked out in thought. A student that mostly takes the last operation has every single skill and the
wrong plan, which is the case SRL is made for. Nothing is downloaded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from srl.chat.prompts import SEPARATOR, answer_prompt, format_completion, step_prompt
from srl.records import Step, StepInstance, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as Qwen's models use it."""

MODULUS = 5
OPERATIONS = {"+": "Add", "-": "Subtract", "*": "Multiply"}


def random_problem(rng: random.Random, n_operations: int = 3) -> str:
    """An expression of digits, e.g. `2+3*4-1`."""
    digits = [str(rng.randrange(MODULUS)) for _ in range(n_operations + 1)]
    return digits[0] + "".join(rng.choice(list(OPERATIONS)) + digit for digit in digits[1:])


def terms(expression: str) -> list[str]:
    """A number with the sign before it, or the blank that a used one leaves.

    >>> terms("2+3*4-1"), terms("2+2__-1")
    (['2', '+3', '*4', '-1'], ['2', '+2', '__', '-1'])
    """
    return re.findall(r"[-+*]?\d|__", expression)


def operations(expression: str) -> list[int]:
    """Which terms carry an operation that is still to do."""
    return [place for place, term in enumerate(terms(expression)) if term[0] in OPERATIONS]


def expert_choice(expression: str) -> int:
    """The term whose operation is to be done next: the first `*`, else the first of all."""
    left, there = operations(expression), terms(expression)
    return next((place for place in left if there[place][0] == "*"), left[0])


def reduce_at(expression: str, place: int) -> tuple[str, str]:
    """Carry out one operation modulo 5: (the fact used, the expression that is left, as long as before).

    >>> reduce_at("2+3*4-1", 2)
    ('+3*4=+2', '2+2__-1')
    >>> reduce_at("2+2__-1", 3)
    ('+2-1=+1', '2+1____')
    """
    there = terms(expression)
    before = max(index for index in range(place) if there[index] != "__")
    left, right = there[before], there[place]
    a, b = int(left[-1]), int(right[-1])
    result = {"+": a + b, "-": a - b, "*": a * b}[right[0]] % MODULUS
    there[before], there[place] = f"{left[:-1]}{result}", "__"
    return f"{left}{right}={there[before]}", "".join(there)


def bad_habit(rng: random.Random, haste: float) -> Callable[[str], int]:
    """A student's choice: with probability `haste` the last operation, else any."""

    def choose(expression: str) -> int:
        left = operations(expression)
        return left[-1] if haste and rng.random() < haste else rng.choice(left)

    return choose


def careless(rng: random.Random, share: float) -> Callable[[str], int]:
    """An expert's choice that is wrong in this share of the operations where there is a choice."""

    def choose(expression: str) -> int:
        right = expert_choice(expression)
        others = [place for place in operations(expression) if place != right]
        return rng.choice(others) if others and rng.random() < share else right

    return choose


def solve(
    problem: str,
    choose: Callable[[str], int] = expert_choice,
    carry_out: Callable[[str, int], tuple[str, str]] = reduce_at,
    *,
    thoughts: bool = False,
) -> Trajectory:
    r"""The trajectory of who chooses and calculates so, by default the expert; with the student's thoughts, if wanted.

    >>> for step in solve("2+3*4", thoughts=True).steps: print(step.thought, repr(step.action))
    +3*4=+2 '1. **Multiply**\n2+2__, so far 2'
    2+2=4 '2. **Add**\n4____, so far 24'
    24 '3. **Answer**\n\\boxed{24}'
    """
    steps: list[Step] = []
    expression, results = problem, ""
    while operations(expression):
        place = choose(expression)
        title = f"{len(steps) + 1}. **{OPERATIONS[terms(expression)[place][0]]}**"
        fact, expression = carry_out(expression, place)
        results += fact[-1]
        steps.append(Step(f"{title}\n{expression}, so far {results}", title, thought=fact if thoughts else None))
    title = f"{len(steps) + 1}. **Answer**"
    steps.append(Step(f"{title}\n\\boxed{{{results}}}", title, thought=results if thoughts else None))
    return Trajectory(problem, problem, tuple(steps), answer=results)


def in_other_words(trajectory: Trajectory) -> Trajectory:
    r"""The same solution as another author would word it; numbers and titles stay.

    >>> [step.action for step in in_other_words(solve("2*4")).steps]
    ['1. **Multiply**\ngives 3__ / 3', '2. **Answer**\nwhich is \\boxed{3}']
    """

    def reworded(action: str) -> str:
        action = re.sub(r"\n(.+), so far ", r"\ngives \1 / ", action)
        return action.replace("\n\\boxed", "\nwhich is \\boxed")

    steps = tuple(replace(step, action=reworded(step.action)) for step in trajectory.steps)
    return replace(trajectory, steps=steps)


def thinking_aloud(trajectory: Trajectory, system_prompt: str = "") -> StepInstance:
    """The whole solution with its thoughts between the steps, as a row for SFT.

    `srl steps` writes no such row: a step has one thought, which comes first.
    """
    first, *others = trajectory.steps
    aloud = [first.action, *(format_completion(step.thought, step.action) for step in others)]
    prompt = answer_prompt(trajectory.problem, system_prompt)
    return StepInstance(trajectory.id, 1, prompt, SEPARATOR.join(aloud), thought=first.thought)


def build_tokenizer(texts: Sequence[str] = (), whole: Sequence[str] | None = None) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with Qwen's word splitting, ChatML and about 400 tokens; always the same.

    Args:
        texts: Whose words become tokens, beside those of the prompts.
        whole: Texts that are one token each; by default those of the arithmetic.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    qwen_words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(qwen_words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    prompts = [turn["content"] for turn in answer_prompt("") + step_prompt("", "")]
    tokenizer.train_from_iterator(
        ["system\n", "user\n", "assistant\n"] * 9 + prompts + [*texts] * 9,
        trainers.BpeTrainer(
            vocab_size=512,
            min_frequency=2,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    # Not special, as in Qwen3: decoding must keep them. What the domain repeats is one token, and so is a term: the
    # tiny model learns late to copy long expressions.
    if whole is None:
        whole = ["__", *(f"{sign}{digit}" for sign in OPERATIONS for digit in range(MODULUS))]
        whole += [", so far ", "\\boxed{", *(f". **{title}**\n" for title in (*OPERATIONS.values(), "Answer"))]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", *whole)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


@dataclass(frozen=True)
class Size:
    """Of a tiny model; the default is the arithmetic's, about 0.35 M parameters."""

    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    num_key_value_heads: int = 4


def write_model(
    folder: Path, seed: int = 0, size: Size = Size(), tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Save an untrained Qwen2 and its tokenizer (by default the arithmetic's), as `save_pretrained` lays them out."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = tokenizer or build_tokenizer()
    torch.manual_seed(seed)
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=len(tokenizer),
            **asdict(size),
            initializer_range=0.08,  # 1/sqrt(hidden size); Qwen2's 0.02 learns much later at this size
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
