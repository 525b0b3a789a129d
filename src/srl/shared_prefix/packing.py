"""Rows of tokens that begin alike -> packed rows in which every shared token stands once.

Think of the rows as paths through a tree that forks where they begin to differ:

    row 1   t r u n k A B          packed   t r u n k A | X Y | k P
    row 2   t r u n k X Y          depth    0 1 2 3 4 5 | 5 6 | 4 5
    row 3   t r u n k P            (simplified: see below)

Three facts make this short:

* A row is a sequence of *places*: a token together with the token that follows it. Rows share a place when
  they agree on both, so a packed place has one next-token label. A row's last token predicts nothing and no
  other token looks at it: it is left out, and a row that is a prefix of another adds nothing at all.
* Rows are taken depth first, the heaviest branch first. Then what a row has in common with any row before
  it, it has in common with the one just before it, and it adds the rest: one run, its *chain*. The first
  chain holds the whole trajectory.
* Everything that hangs below one fork is one run as well. So a token's ancestors are a few runs, each seen
  by a whole run of queries: `Block`s without a mask, next to each chain's causal attention to itself.

Shapes: T places of a pack, C tokens of a completion. Cost: linear in tokens, beside sorting the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Sharing = Literal["trajectory", "prompt", "rows"]

NO_LABEL = -100
"""What loss functions skip."""


@dataclass(frozen=True)
class Block:
    """Places [start, stop) all see all of the places [key_start, key_stop), a part of their common past."""

    start: int
    stop: int
    key_start: int
    key_stop: int


@dataclass(frozen=True)
class AttentionPlan:
    """Who sees whom in a pack: each place what precedes it in its chain, and what its blocks say."""

    chains: tuple[tuple[int, int], ...]
    """Runs [start, stop) of causal attention; one after another they are the whole pack."""
    blocks: tuple[Block, ...]

    @property
    def n_places(self) -> int:
        """T, the length of the packed row."""
        return self.chains[-1][1]

    @cached_property
    def depths_T(self) -> Ids:
        """How many places each place sees beside itself: where it stands in its rows."""
        starts = np.array([start for start, _ in self.chains])
        ancestors = np.zeros(self.n_places + 1, np.int64)
        for block in self.blocks:
            ancestors[block.start] += block.key_stop - block.key_start
            ancestors[block.stop] -= block.key_stop - block.key_start
        in_chain = np.arange(self.n_places) - np.repeat(starts, np.diff([*starts, self.n_places]))
        return ancestors.cumsum()[:-1] + in_chain

    @cached_property
    def ends_T(self) -> Ids:
        """Per place, where the run of all places that see it ends; it begins with the place itself."""
        starts, stops = np.array(self.chains).T
        ends = np.repeat(stops, stops - starts)
        for block in self.blocks:
            keys = ends[block.key_start : block.key_stop]
            np.maximum(keys, block.stop, out=keys)
        return ends

    @property
    def n_pairs(self) -> int:
        """Pairs of a query and a key that it sees: what attention costs."""
        causal = sum((stop - start) * (stop - start + 1) // 2 for start, stop in self.chains)
        return causal + sum((b.stop - b.start) * (b.key_stop - b.key_start) for b in self.blocks)


@dataclass(frozen=True, eq=False)
class Pack:
    """Some of the rows, packed."""

    ids_T: Ids
    positions_T: Ids
    """Each token's position in its rows."""
    labels_T: Ids
    """The next token where it belongs to a completion, else `NO_LABEL`."""
    rows: list[int]
    """Which of the given rows are here."""
    places: list[Ids]
    """Per row, (C,): where in the pack its completion's tokens are predicted."""
    plan: AttentionPlan


def pack(
    rows: Sequence[Ids],
    prompt_lengths: Sequence[int],
    sharing: Sharing = "trajectory",
    max_places: int | None = None,
) -> list[Pack]:
    """Pack rows of prompt and completion; prompts have at least one token.

    `sharing`: among all rows ("trajectory": any common prefix, also across steps), among the samples of one
    prompt, or not at all. A pack that would exceed `max_places` is followed by another one, which begins with
    a whole row; a single longer row is a pack of its own. Rows with an empty completion are in no pack.
    """
    finished: list[Pack] = []
    building = _Building()
    for family in _families(rows, prompt_lengths, sharing):
        previous = None
        for index in _depth_first(rows, family):
            row = rows[index]
            shared = 0 if previous is None else common_places(previous, row)
            if max_places and building.rows and building.n_places + len(row) - 1 - shared > max_places:
                finished.append(building.pack())
                building, shared = _Building(), 0
            building.add(index, row, prompt_lengths[index], shared)
            previous = row
    return [*finished, building.pack()] if building.rows else finished


def common_places(one: Ids, other: Ids) -> int:
    """How many places two rows share from their beginning: one less than tokens, for the labels' sake.

    >>> common_places(np.array([5, 6, 7, 8]), np.array([5, 6, 7, 9]))
    2
    """
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return max(0, (int(differs.argmax()) if differs.any() else length) - 1)


def _families(rows: Sequence[Ids], prompt_lengths: Sequence[int], sharing: Sharing) -> list[list[int]]:
    """The sets of rows among which prefixes are shared."""
    scored = [i for i, (row, length) in enumerate(zip(rows, prompt_lengths, strict=True)) if len(row) > length]
    if sharing == "rows":
        return [[i] for i in scored]
    families: dict[bytes, list[int]] = {}
    for i in scored:
        prompt = rows[i][: prompt_lengths[i]].tobytes() if sharing == "prompt" else b""
        families.setdefault(prompt, []).append(i)
    return list(families.values())


def _depth_first(rows: Sequence[Ids], family: list[int]) -> Iterator[int]:
    """The rows in the order of a walk through their prefix tree that takes the branch with most tokens first."""
    # Sorted rows are a walk already (neighbours have most in common); where to turn first is still open.
    family = sorted(family, key=lambda i: rows[i].astype(">i8").tobytes())
    shared = np.array([common_places(rows[i], rows[j]) for i, j in pairwise(family)])
    tokens_before = np.cumsum([0, *(len(rows[i]) for i in family)])
    subtrees = [(0, len(family))]
    while subtrees:
        first, last = subtrees.pop()
        if last - first == 1:
            yield family[first]
            continue
        inside = shared[first : last - 1]
        forks = first + 1 + np.flatnonzero(inside == inside.min())
        branches = list(pairwise([first, *forks.tolist(), last]))
        subtrees += sorted(branches, key=lambda branch: tokens_before[branch[1]] - tokens_before[branch[0]])


@dataclass
class _Run:
    """A part of the path to the row added last: the beginning of a chain, up to where later rows left it."""

    place: int
    depth: int
    end_depth: int
    left_at: int | None = None
    """The first place that hangs below `end_depth`; None while the chain has not been left."""


@dataclass
class _Building:
    """A pack in the making."""

    n_places: int = 0
    rows: list[int] = field(default_factory=list)
    places: list[Ids] = field(default_factory=list)
    parts: list[tuple[Ids, int, int]] = field(default_factory=list)
    """Per chain: its row, and the first and last depth of it that are new."""
    chains: list[tuple[int, int]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    path: list[_Run] = field(default_factory=list)
    place_of_depth: Ids = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, index: int, row: Ids, prompt_length: int, shared: int) -> None:
        """Add a row that has its first `shared` places in common with the row before."""
        self._leave_path_at(shared)
        depth, start = len(row) - 1, self.n_places
        if depth > shared:
            self.n_places += depth - shared
            self.parts.append((row, shared, depth))
            self.chains.append((start, self.n_places))
            self.path.append(_Run(start, shared, depth))
            if depth > len(self.place_of_depth):
                self.place_of_depth = np.resize(self.place_of_depth, 2 * depth)
            self.place_of_depth[shared:depth] = np.arange(start, self.n_places)
        self.rows.append(index)
        self.places.append(self.place_of_depth[prompt_length - 1 : depth].copy())

    def _leave_path_at(self, depth: int) -> None:
        """Shorten the path to `depth`; what saw a run as long as it was, is a complete block now."""
        while self.path and self.path[-1].end_depth > depth:
            run = self.path.pop()
            if run.left_at is not None and run.left_at < self.n_places:
                keys = run.place, run.place + run.end_depth - run.depth
                self.blocks.append(Block(run.left_at, self.n_places, *keys))
            if run.depth < depth:
                self.path.append(_Run(run.place, run.depth, depth))
        if self.path and self.path[-1].left_at is None:
            self.path[-1].left_at = self.n_places

    def pack(self) -> Pack:
        """All rows are added."""
        self._leave_path_at(0)
        ids_T = np.concatenate([row[a:b] for row, a, b in self.parts])
        next_T = np.concatenate([row[a + 1 : b + 1] for row, a, b in self.parts])
        positions_T = np.concatenate([np.arange(a, b) for _, a, b in self.parts])
        labels_T = np.full_like(next_T, NO_LABEL)
        scored = np.concatenate(self.places)
        labels_T[scored] = next_T[scored]
        plan = AttentionPlan(tuple(self.chains), tuple(self.blocks))
        return Pack(ids_T, positions_T, labels_T, self.rows, self.places, plan)
