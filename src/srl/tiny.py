"""The embedded setting: a tiny Qwen2 model, its tokenizer, and a domain with a symbolic expert.

The domain is arithmetic modulo 10 on expressions such as `7+3*4-5`, one operation per step. The expert
multiplies first and otherwise goes from left to right; a student that reduces operations in random order has
every single skill and the wrong plan, which is the case SRL is made for. Nothing is downloaded.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from srl.records import Step, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as Qwen's models use it."""

OPERATIONS = {"+": "Add", "-": "Subtract", "*": "Multiply"}


def random_problem(rng: random.Random, min_operations: int = 3, max_operations: int = 5) -> str:
    """An expression of digits, e.g. `7+3*4-5`."""
    n_operations = rng.randint(min_operations, max_operations)
    digits = rng.choices("0123456789", k=n_operations + 1)
    signs = rng.choices(list(OPERATIONS), k=n_operations)
    return digits[0] + "".join(sign + digit for sign, digit in zip(signs, digits[1:], strict=True))


def expert_choice(expression: str) -> int:
    """Index of the sign to reduce next: the first `*`, else the first sign."""
    star = expression.find("*")
    return star if star >= 0 else 1


def reduce_at(expression: str, sign: int) -> tuple[str, str]:
    """Carry out one operation modulo 10: ("3*4=2", the expression that is left).

    >>> reduce_at("7+3*4-5", 3)
    ('3*4=2', '7+2-5')
    """
    left, right = int(expression[sign - 1]), int(expression[sign + 1])
    result = {"+": left + right, "-": left - right, "*": left * right}[expression[sign]] % 10
    return f"{expression[sign - 1 : sign + 2]}={result}", f"{expression[: sign - 1]}{result}{expression[sign + 2 :]}"


def solve(problem: str, rng: random.Random | None = None) -> Trajectory:
    """The expert's trajectory, or with `rng` the aimless student's: random order, with its thoughts.

    >>> [step.action for step in solve("7+3*4").steps]
    ['1. **Multiply**\\n3*4=2, leaving 7+2', '2. **Add**\\n7+2=9, leaving 9']
    """
    steps, expression = [], problem
    while len(expression) > 1:
        sign = rng.randrange(1, len(expression), 2) if rng else expert_choice(expression)
        title = f"{len(steps) + 1}. **{OPERATIONS[expression[sign]]}**"
        fact, expression = reduce_at(expression, sign)
        steps.append(Step(f"{title}\n{fact}, leaving {expression}", title=title, thought=fact if rng else None))
    return Trajectory(problem, problem, tuple(steps), answer=expression, conclusion=f"Answer: \\boxed{{{expression}}}")


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with Qwen's word splitting, ChatML and about 320 tokens; always the same."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from srl.prompts import answer_prompt, step_prompt

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
    rng = random.Random(0)
    texts = ["system\n", "user\n", "assistant\n"] * 9 + [*(turn["content"] for turn in answer_prompt("") + step_prompt("", ""))]
    for _ in range(200):
        trajectory = solve(random_problem(rng))
        texts += [step_prompt(trajectory.problem, "", "")[0]["content"], str(trajectory.conclusion)]
        texts += [step.action for step in trajectory.steps]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512,
            min_frequency=2,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    # Not special, as in Qwen3: decoding must keep them.
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def write_model(folder: Path, seed: int = 0) -> None:
    """Save an untrained Qwen2 of about 0.5 M parameters and its tokenizer, as `save_pretrained` lays them out."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
