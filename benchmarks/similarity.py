"""The step similarity against difflib and cydifflib: speed, worst cases, memory, and what autojunk does.

    python benchmarks/similarity.py             # about three minutes

CPU time on one core, everything in one run: read the ratios, not the seconds. Texts come with Python:
"prose" from the language reference, "code" from the standard library, "step" is prose with formulas.
Similar pairs differ in a tenth of their words; dissimilar ones are from other places of the same source.
"""

import argparse
import difflib
import inspect
import math
import platform
import random
import statistics
import tarfile
import time
import tracemalloc
import typing
from pydoc_data import topics

from srl.rewards.similarity import MAX_LENGTH, fallback, implementation, ratio, ratio_autojunk, ratios_batch

try:
    import cydifflib
except ImportError:
    cydifflib = None

PROSE = [text for text in topics.topics.values() if len(text) > 9000]
CODE = [inspect.getsource(module) for module in (argparse, tarfile, typing, inspect)]
BARS = {500: (100, 5), 2000: (300, 15), 8000: (1000, 30)}
ADVERSARIAL_SIZE = 8000


def cpu_seconds(function, *arguments, repeats=1):
    """The best of several CPU times of one call."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function(*arguments)
        best = min(best, time.process_time() - start)
    return best


def with_difflib(action, expert):
    return difflib.SequenceMatcher(None, action, expert, autojunk=False).ratio()


def with_cydifflib(action, expert):
    return cydifflib.SequenceMatcher(None, action, expert, autojunk=False).ratio()


def with_fallback(action, expert):
    return 2.0 * fallback.matched_pairs([action], [expert])[0] / (len(action) + len(expert))


def window(rng, source, size):
    text = rng.choice(source)
    start = rng.randrange(len(text) - size)
    return text[start : start + size]


def reworded(rng, text, share):
    """The text with a share of its words replaced by others of its own."""
    words = text.split(" ")
    return " ".join(rng.choice(words) if rng.random() < share else word for word in words)


def ordinary_pairs(rng, size, count):
    """Pairs of each kind: similar and dissimilar, of prose and of code."""
    pairs = {}
    for name, source in (("prose", PROSE), ("code", CODE)):
        experts = [window(rng, source, size) for _ in range(count)]
        pairs[f"{name}, similar"] = [(reworded(rng, expert, 0.1)[:size], expert) for expert in experts]
        pairs[f"{name}, dissimilar"] = [(window(rng, source, size), expert) for expert in experts]
    return pairs


def math_step(rng):
    """A step of 80 to 600 characters: prose with formulas in it."""
    words = window(rng, PROSE, rng.randrange(60, 500)).split()
    for _ in range(len(words) // 8 + 1):
        x, y = rng.randrange(2, 99), rng.randrange(2, 99)
        formula = rng.choice(["$x^{%d} + %d$", "\\frac{%d}{%d}", "\\(a_{%d} = %d\\)", "$$\\sqrt{%d} \\le %d$$"])
        words.insert(rng.randrange(len(words) + 1), formula % (x, y))
    return " ".join(words)


def math_step_batch(rng):
    """512 experts with 8 rollouts each, from nearly right to unrelated."""
    actions, experts = [], []
    for _ in range(512):
        expert = math_step(rng)
        for share in (0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, None):
            actions.append(math_step(rng) if share is None else reworded(rng, expert, share))
            experts.append(expert)
    return actions, experts


def falling_blocks(rng, size, alphabet):
    """Blocks of lengths k, k - 1 ... 1 between separators: the deepest recursion that a size allows."""
    deepest = int((2 * size) ** 0.5)
    blocks = ["".join(rng.choices(alphabet, k=deepest - k)) for k in range(deepest)]
    order = rng.choice(["falling", "rising", "shuffled"])
    blocks = blocks[::-1] if order == "rising" else blocks
    if order == "shuffled":
        rng.shuffle(blocks)
    return rng.choice(["\n", "X"]).join(blocks)[:size], rng.choice(["Y", "yx", "\nx"]).join(blocks)[:size]


def noisy_period(rng, size):
    period = "".join(rng.choices("ab \n", k=rng.randrange(1, 40)))
    text = list((period * size)[:size])
    for _ in range(size // rng.choice([5, 20, 100, 500, size])):
        text[rng.randrange(size)] = rng.choice("abx")
    return "".join(text)


def character_runs(rng, size):
    longest = rng.choice([3, 10, 60])
    return "".join(rng.choice("ab ") * rng.randrange(1, longest) for _ in range(size))[:size]


def adversarial_pair(rng, size):
    kind = rng.randrange(6)
    if kind == 0:
        return falling_blocks(rng, size, rng.choice(["0", "ab", "abcdefgh"]))
    if kind == 1:
        return noisy_period(rng, size), noisy_period(rng, size)
    if kind == 2:
        return character_runs(rng, size), character_runs(rng, size)
    if kind == 3:
        code = window(rng, CODE, size)
        return (code[: rng.choice([1, 2, 8, 30, 200])] * size)[:size], code
    if kind == 4:
        alphabet = rng.choice(["ab", "abcd", "0123456789"])
        return "".join(rng.choices(alphabet, k=size)), "".join(rng.choices(alphabet, k=size))
    lines = window(rng, CODE, size).split("\n")
    return "\n".join(rng.sample(lines, len(lines))), "\n".join(lines)


def peak_megabytes(function, *arguments):
    """Peak of Python's allocator, which the extension uses too."""
    tracemalloc.start()
    function(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def verdict(required, measured):
    """A negative requirement is an upper bound."""
    if math.isnan(measured):
        return "not measured"
    return "met" if (measured >= required if required > 0 else measured < -required) else "MISSED"


def milliseconds(compare, pairs, repeats):
    """CPU time per pair; each pass is over all the pairs, so that none is warm."""
    return 1000 * cpu_seconds(lambda: [compare(*pair) for pair in pairs], repeats=repeats) / len(pairs)


def milliseconds_of_each(pairs):
    """CPU time per pair: ours, difflib, cydifflib, the fallback."""
    return [
        milliseconds(ratio, pairs, 3),
        milliseconds(with_difflib, pairs, 1),
        milliseconds(with_cydifflib, pairs, 1) if cydifflib else float("nan"),
        milliseconds(with_fallback, pairs, 1),
    ]


def print_speed(rng, size, count):
    """One row for each kind of pair of one size, and their mean; returns the bars."""
    rows = {kind: milliseconds_of_each(pairs) for kind, pairs in ordinary_pairs(rng, size, count).items()}
    rows["mean"] = [statistics.mean(column) for column in zip(*rows.values(), strict=True)]
    for kind, (ours, standard, compiled, python) in rows.items():
        print(
            f"| {size} | {kind} | {ours:.3f} | {standard:.1f} | {compiled:.2f} | {python:.2f} "
            f"| {standard / ours:.0f}× | {compiled / ours:.0f}× | {standard / python:.1f}× |"
        )
    ours, standard, compiled, python = rows["mean"]
    return [
        (f"{size} characters, times difflib", BARS[size][0], standard / ours),
        (f"{size} characters, times cydifflib", BARS[size][1], compiled / ours),
        (f"{size} characters, fallback, times difflib", 1, standard / python),
    ]


def read_elements(action, expert):
    return action.encode("utf-32-le"), expert.encode("utf-32-le")


def print_floor(rng):
    """What no exact method can save: every element is read once; here, both texts become code points."""
    print("\n| characters | elements to read | floor, µs | similar | dissimilar |\n|---|---|---|---|---|")
    for size, count in ((500, 40), (2000, 10), (8000, 5)):
        experts = [window(rng, PROSE, size) for _ in range(count)]
        similar = [(reworded(rng, expert, 0.1)[:size], expert) for expert in experts]
        dissimilar = [(window(rng, PROSE, size), expert) for expert in experts]
        floor = milliseconds(read_elements, dissimilar, 20)
        times = [milliseconds(ratio, pairs, 5) / floor for pairs in (similar, dissimilar)]
        print(f"| {size} | {2 * size} | {1000 * floor:.1f} | {times[0]:.0f}× | {times[1]:.0f}× |")


def adversarial_bars(rng):
    pairs = [adversarial_pair(rng, ADVERSARIAL_SIZE) for _ in range(300)]
    longest = [adversarial_pair(rng, MAX_LENGTH) for _ in range(30)]
    ours = max(cpu_seconds(ratio, *pair, repeats=2) for pair in pairs)
    at_cap = max(cpu_seconds(ratio, *pair) for pair in longest)
    python = max(cpu_seconds(with_fallback, *pair) for pair in pairs)
    memory = max(peak_megabytes(ratio, *pair) for pair in pairs)
    python_memory = max(peak_megabytes(with_fallback, *pair) for pair in pairs[:60])
    python_at_cap = max(cpu_seconds(with_fallback, *pair) for pair in longest)
    print(
        f"\nworst of 30 adversarial pairs at the length cap ({MAX_LENGTH}): {1000 * at_cap:.0f} ms; "
        f"fallback {python_at_cap:.1f} s"
    )
    return [
        ("worst of 300 adversarial pairs, ms", -50, 1000 * ours),
        ("peak memory of one of them, MiB", -64, memory),
        ("fallback, worst of the 300, s", -10, python),
        ("fallback, peak memory of one of 60, MiB", -64, python_memory),
    ]


def batch_bars(rng):
    actions, experts = math_step_batch(rng)
    one_core = cpu_seconds(ratios_batch, actions, experts, 1, repeats=3)
    print(f"\n4096 math-step pairs, mean {statistics.mean(map(len, experts)):.0f} characters", end="; ")
    start = time.perf_counter()
    ratios_batch(actions, experts)
    print(f"on all cores {time.perf_counter() - start:.2f} s of wall time")
    return [("4096 math-step pairs on one core, s", -0.5, one_core)]


def print_bars(bars):
    print("\n| bar | required | measured | |\n|---|---|---|---|")
    for name, required, measured in bars:
        bound = f"≥ {required}" if required > 0 else f"< {-required}"
        print(f"| {name} | {bound} | {measured:.2f} | {verdict(required, measured)} |")


def print_autojunk(rng):
    """How wrong difflib's default is, within groups of 8 rollouts of one expert step."""
    print("\n| characters | mean error | largest error | pairs of rollouts ranked wrongly |\n|---|---|---|---|")
    for size in (150, 250, 500, 1000):
        errors, flips, comparisons = [], 0, 0
        for _ in range(12):
            expert = window(rng, PROSE, size)
            group = [reworded(rng, expert, rng.uniform(0.05, 0.9)) for _ in range(8)]
            exact = [ratio(action, expert) for action in group]
            junk = [ratio_autojunk(action, expert) for action in group]
            errors += [abs(x - y) for x, y in zip(exact, junk, strict=True)]
            for i in range(8):
                for j in range(i):
                    comparisons += exact[i] != exact[j]
                    flips += (exact[i] - exact[j]) * (junk[i] - junk[j]) < 0
        wrong = 100 * flips / comparisons
        print(f"| {size} | {statistics.mean(errors):.3f} | {max(errors):.2f} | {wrong:.1f}% |")


def main():
    rng = random.Random(20251025)
    compiled = f"cydifflib {cydifflib.__version__}" if cydifflib else "cydifflib is not installed: nan below"
    print(f"implementation: {implementation()}; Python {platform.python_version()}; {compiled}\n")
    print("| characters | pairs | ours, ms | difflib | cydifflib | fallback", end="")
    print(" | difflib / ours | cydifflib / ours | difflib / fallback |")
    print("|---" * 9 + "|")
    bars = []
    for size, count in ((500, 40), (2000, 10), (8000, 3)):
        bars += print_speed(rng, size, count)
    print_floor(rng)
    bars += adversarial_bars(rng)
    bars += batch_bars(rng)
    print_bars(bars)
    print_autojunk(rng)


if __name__ == "__main__":
    main()
