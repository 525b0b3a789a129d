"""Step similarity: Ratcliff–Obershelp's 2M/T, as difflib defines it (not the longest common subsequence)."""

from difflib import SequenceMatcher


def ratio(action: str, expert: str) -> float:
    """2M/T in [0, 1]: M characters in matching blocks, T characters in all (paper §4.2).

    `autojunk` is off: difflib's default drops frequent characters of experts of 200 or more characters.
    """
    return SequenceMatcher(None, action, expert, autojunk=False).ratio()
