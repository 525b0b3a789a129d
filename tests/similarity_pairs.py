"""Pairs of texts of many kinds, for the step similarity, and what difflib says of them."""

import difflib
import string

SIZES = (6, 12, 12, 25, 25, 40, 70, 100)
LONG_SIZES = (150, 250, 400)
ALPHABETS = ("a", "ab", "ab", "abc", "abcd", "abcdefgh", string.ascii_lowercase, string.printable)
UNICODE = "aé中ÿĀ😀𝔸\ud800\udc00\udfff\x00\U0010ffff ab"
WORDS = [
    "let",
    "the",
    "sum",
    "of",
    "x",
    "+",
    "y",
    "=",
    "2",
    "so",
    "\\frac{1}{2}",
    "$a_n$",
    "even",
    "return",
    "self",
]


def choose(rng, alphabet, size):
    return "".join(rng.choices(alphabet, k=rng.randrange(size + 1)))


def mutate(rng, text, alphabet, edits):
    """A few deletions, insertions, copies and replacements of short pieces."""
    pieces = list(text)
    for _ in range(rng.randrange(edits + 1)):
        start, end, length = (
            rng.randrange(len(pieces) + 1),
            rng.randrange(len(pieces) + 1),
            rng.randrange(1, 9),
        )
        edit = rng.randrange(4)
        if edit == 0:
            del pieces[start : start + length]
        elif edit == 1:
            pieces[start:start] = rng.choices(alphabet, k=length)
        elif edit == 2:
            pieces[end:end] = pieces[start : start + 3 * length]
        else:
            pieces[start : start + 1] = rng.choices(alphabet, k=1)
    return "".join(pieces)


def unrelated(rng, size):
    alphabet = rng.choice(ALPHABETS)
    return choose(rng, alphabet, size), choose(rng, alphabet, size)


def mutated(rng, size):
    alphabet = rng.choice(ALPHABETS)
    text = choose(rng, alphabet, size)
    return mutate(rng, text, alphabet, 8), text


def periodic(rng, size):
    period = choose(rng, "abc ", 5) + "a"
    text = period * (size // len(period) + 1)
    return mutate(rng, text[: rng.randrange(size + 1)], "abcx ", 5), mutate(rng, text[:size], "abcx ", 5)


def single_runs(rng, size):
    """Runs of one character, of varied length: many blocks of one length compete."""

    def text():
        return "".join(rng.choice("ab") * rng.randrange(1, 12) for _ in range(rng.randrange(size // 6 + 1)))

    return text(), text()


def descending_runs(rng, size):
    """Blocks whose lengths fall by one: the deepest recursion that a length allows."""
    deepest, character = rng.randrange(1, int((2 * size) ** 0.5) + 2), rng.choice("0 a")
    blocks = [character * (deepest - k) for k in range(deepest)]
    return "\n".join(blocks), rng.choice(["x\n", "x", "\nx"]).join(blocks) + rng.choice(["", "x", "\n"])


def self_similar(rng, size):
    """Windows of the Fibonacci or the Thue-Morse word: repetitive, without a period."""
    word, longer = "a", "ab"
    while len(word) < 2 * size:
        word, longer = longer, longer + word
    if rng.random() < 0.5:
        word = "".join("ab"[k.bit_count() % 2] for k in range(2 * size))
    start, other_start = rng.randrange(size), rng.randrange(size)
    return word[start : start + rng.randrange(size)], word[other_start : other_start + rng.randrange(size)]


def shuffled_blocks(rng, size):
    blocks = [choose(rng, "abcdef", max(2, size // 6)) for _ in range(rng.randrange(1, 8))]
    return "".join(rng.sample(blocks, len(blocks))), rng.choice(["", "-"]).join(rng.sample(blocks, len(blocks)))


def indented(rng, size):
    def text():
        lines = [" " * 4 * rng.randrange(5) + rng.choice(["x=1", "return x", "if x:", ""]) for _ in range(size // 8)]
        return "\n".join(lines)

    return text(), text()


def words(rng, size):
    text = " ".join(rng.choices(WORDS, k=size // 5 + 1))
    return " ".join(rng.choice(WORDS) if rng.random() < 0.2 else word for word in text.split(" ")), text


def unicode(rng, size):
    text = choose(rng, UNICODE, size)
    return rng.choice([mutate(rng, text, UNICODE, 6), choose(rng, UNICODE, size)]), text


def empty_and_tiny(rng, size):
    return choose(rng, "ab", 2), choose(rng, "ab", rng.choice([0, 1, 2, size]))


KINDS = (
    unrelated,
    mutated,
    periodic,
    single_runs,
    descending_runs,
    self_similar,
    shuffled_blocks,
    indented,
    words,
    unicode,
    empty_and_tiny,
)


def any_size(rng):
    return rng.choice(LONG_SIZES) if rng.random() < 0.003 else rng.choice(SIZES)


def with_difflib(a, b):
    return sum(block.size for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())


def as_token_ids(text):
    """The same sequence in numbers of up to 32 bits."""
    return [ord(character) * 3855 for character in text]
