"""What `srl steps` says of its work: counts of what was read, kept and left out, and why."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from srl.data.formats.cutting import SCHEMES
from srl.data.sources import Found

FILES_SHOWN = 20
"""Of a larger folder, the files that lost most; `report.json` has all."""

_PLACE_IN_FILE = re.compile(r"(?::\d+|\[\d+\])$")


@dataclass
class Report:
    """The counts of one `srl steps`."""

    read: int = 0
    kept: int = 0
    answers_checked: int = 0
    own_answers: int = 0
    """Of these: answers that only the solution itself tells."""
    shortened_observations: int = 0
    repeated_problems: int = 0
    repeated_ids: int = 0
    without_steps_to_ask: int = 0
    without_steps: Counter[str] = field(default_factory=Counter)
    """Problems with a known answer and no steps, by the reason why there are none."""
    wrong_solutions: int = 0
    """Solutions of such problems that were left out, for they miss the answer."""
    continuations: int = 0
    """Rows that ask for the rest of a solution (`solve_from`)."""
    malformed: Counter[str] = field(default_factory=Counter)
    """Step instances left out, and thoughts left out of others: no completion can say them and be well formed."""
    special_tokens: Counter[str] = field(default_factory=Counter)
    """Step instances and solutions that hold a special token of the tokenizer."""
    instances: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """What became of the rows of each file: kept, or left out."""
    found: Found = field(default_factory=Found)
    sizes: dict[str, array[int]] = field(default_factory=dict)
    """Of every kept trajectory and step instance: steps, characters, tokens."""

    def size(self, name: str, value: int) -> None:
        """Note one size."""
        self.sizes.setdefault(name, array("q")).append(value)

    def outcome(self, where: str, what: str) -> None:
        """Note what became of the row at a place."""
        self.outcomes.setdefault(_PLACE_IN_FILE.sub("", where), Counter())[what] += 1

    def summary(self) -> dict[str, Any]:
        """The report as JSON takes it, sizes by their quantiles."""
        counts = {name: value for name, value in vars(self).items() if name not in ("found", "sizes")}
        return {**counts, **vars(self.found), "sizes": {name: quantiles(values) for name, values in self.sizes.items()}}

    def lines(self) -> list[str]:
        """The report for a person."""
        share = f"{self.kept / self.read:.1%}" if self.read else "none"
        lines = [
            f"read {self.read} trajectories, kept {self.kept} ({share}), {self.answers_checked} with a known answer"
        ]
        for name, count in self.found.formats.most_common():
            lines.append(f"  {count:8d}  as {name} ({self.found.recognised_by[name]})")
        lines += [f"  {count:8d}  left out: {reason}" for reason, count in self.dropped.most_common()]
        lines += [f"  {count:8d}  {what}" for what, count in self._notes() if count]
        lines += self._file_lines()
        if self.found.cuts:
            cuts = (f"{scheme} {self.found.cuts[scheme] / self.found.written:.0%}" for scheme in SCHEMES)
            lines.append(f"of {self.found.written} written solutions, --cut would find steps in: {', '.join(cuts)}")
        for name, values in self.sizes.items():
            sizes = quantiles(values)
            lines.append(f"{name}: median {sizes['median']}, 95% up to {sizes['p95']}, longest {sizes['max']}")
        if self.shortened_observations:
            lines.append(f"{self.shortened_observations} observations shortened (--max-observation-chars)")
        for split in ("train", "validation"):
            lines.append(f"{split}: {self.problems[split]} problems, {self.instances[split]} step instances")
        if self.continuations:
            lines.append(f"{self.continuations} more rows ask for the rest of a solution (--solve-from)")
        return lines

    def _notes(self) -> list[tuple[str, int]]:
        """What else happened to what was kept, with how often."""
        return [
            *(
                (f"have no steps, and are problems to solve as a whole: {why}", n)
                for why, n in self.without_steps.items()
            ),
            *((f"have no such field: {flag}", count) for flag, count in self.found.missing_columns.items()),
            ("solutions of these left out: they miss the known answer", self.wrong_solutions),
            ("answers known only from the solution itself (--answer-field)", self.own_answers),
            ("are further trajectories of a problem seen before", self.repeated_problems),
            ("had the id of an earlier one, and got a number behind it", self.repeated_ids),
            ("have no step that is asked for (--targets)", self.without_steps_to_ask),
            *((f"{what}: no well-formed completion says them", count) for what, count in self.malformed.items()),
            *((f"{what}: training leaves them out", count) for what, count in self.special_tokens.items()),
        ]

    def _file_lines(self) -> list[str]:
        """What became of every file, where there are several."""
        files = self.found.files
        if len(files) < 2:
            return []
        by_loss = sorted(files, key=lambda name: self.outcomes.get(name, Counter())["left out"], reverse=True)
        shown = set(by_loss[:FILES_SHOWN])
        lines = []
        for name, rows in files.items():
            outcomes = self.outcomes.get(name, Counter())
            what = ", ".join(f"{count} × {kind}" if count else kind for kind, count in rows.items())
            became = ", ".join(f"{count} {word}" for word, count in sorted(outcomes.items())) or "skipped"
            if name in shown:
                lines.append(f"  {name}: {what}: {became}")
        if len(files) > len(shown):
            lines.append(f"  … and {len(files) - len(shown)} more files (report.json)")
        return lines


def quantiles(values: array[int]) -> dict[str, int]:
    """Median, 95th percentile and maximum."""
    ordered = sorted(values)
    return {"median": ordered[len(ordered) // 2], "p95": ordered[len(ordered) * 95 // 100], "max": ordered[-1]}
