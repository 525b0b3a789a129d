"""The prompt of `srl rewrite`: the paper's demands (v3, appendix B.3) in our words, with two examples of ours."""

from __future__ import annotations

from srl.records import Message

INSTRUCTIONS = """You edit mathematical solutions for a textbook. You are given a question and a solution that \
somebody has written for it. Rewrite that solution as a numbered list of steps that a student can follow one at a time.

Write in this form, and write nothing else:

SOLUTION:
1. **Title of the step** What is done in this step.
2. **Title of the step** What is done in this step.
3. ...

Rules:
- Count from 1, each step on a line that begins with its number. Write at least two steps.
- The title stands between two pairs of asterisks. It is a short command that says what the step does, such as \
"Name the unknowns", "Isolate x" or "Insert the values".
- Behind the title stand the equations and operations that carry it out, complete enough to be checked. Formulas are \
LaTeX.
- One idea per step. Do not use numbered lists inside a step.
- Keep to the given solution: its way, its values and its result. Do not solve the question yourself, do not take \
another way, and do not correct it.
- Leave out detours, doubts and repetitions that the solution does not need.
- Close the last step with the final answer in \\boxed{}, as the solution gives it. A proof has no box."""

EXAMPLES = (
    (
        "A tank holds 40 litres. It is filled at 6 litres a minute while 2 litres a minute leak out. After how many "
        "minutes is the empty tank full?",
        "Hmm, 6 come in and 2 go out, that's 4 per minute net. The tank takes 40 so you divide, 40/4=10. Check: "
        "10*6=60 in, 10*2=20 out, 60-20=40, ok. So ten minutes.\n#### 10",
        "SOLUTION:\n"
        "1. **Find the net rate** Each minute 6 litres come in and 2 litres leak out: $6 - 2 = 4$ litres per minute.\n"
        "2. **Divide the volume by the rate** The 40 litres take $\\frac{40}{4} = 10$ minutes.\n"
        "3. **Check the result** In 10 minutes $10 \\cdot 6 = 60$ litres come in and $10 \\cdot 2 = 20$ leak out, "
        "and $60 - 20 = 40$. The tank is full after \\boxed{10} minutes.",
    ),
    (
        "Find all real $x$ with $\\sqrt{x + 7} = x + 1$.",
        "Squaring both sides (we need $x\\ge -1$ for the right side to be nonnegative) gives $x+7=x^2+2x+1$, i.e. "
        "$x^2+x-6=0=(x+3)(x-2)$. Thus $x=-3$ or $x=2$, but $-3<-1$, so the only solution is $\\boxed{2}$.",
        "SOLUTION:\n"
        "1. **State when both sides agree in sign** A root is not negative, so $x + 1 \\ge 0$, that is $x \\ge -1$.\n"
        "2. **Square both sides** $x + 7 = (x + 1)^2 = x^2 + 2x + 1$.\n"
        "3. **Collect the terms** $x^2 + x - 6 = 0$.\n"
        "4. **Factor the quadratic** $x^2 + x - 6 = (x + 3)(x - 2)$, so $x = -3$ or $x = 2$.\n"
        "5. **Reject what the condition excludes** $-3 < -1$ contradicts $x \\ge -1$, so only $x = 2$ remains: "
        "\\boxed{2}.",
    ),
)
"""Question, solution as found, solution as it is to be written."""


def rewrite_prompt(problem: str, solution: str) -> tuple[Message, ...]:
    """The conversation that asks for one solution; the examples are earlier turns of it."""
    turns: list[Message] = [{"role": "system", "content": INSTRUCTIONS}]
    for question, found, written in EXAMPLES:
        turns += [{"role": "user", "content": _question(question, found)}, {"role": "assistant", "content": written}]
    return (*turns, {"role": "user", "content": _question(problem, solution)})


def _question(problem: str, solution: str) -> str:
    return f"**Question:**\n{problem}\n\n**Solution as found:**\n{solution}"
