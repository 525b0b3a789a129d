"""From folders to one HTML file that opens offline; rewritten while a run goes on.

The page is a template with our style and scripts, uPlot, one JSON object, and compressed rollouts. If those are
too many for one file they lie beside it, as scripts that the page loads one by one: `fetch` reads no local files.
"""

from __future__ import annotations

import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from srl import __version__
from srl.errors import UserError
from srl.files import write_text
from srl.report.evaluations import is_evaluation, read_evaluation, results_table
from srl.report.rollouts import Chunk, read_rollouts
from srl.report.runs import Run, differences, is_run, read_run
from srl.report.verdict import verdict

MARKER = "<!doctype html>\n<!-- written by srl report -->\n"
"""How the page begins: only a file that does is ever overwritten."""

MAX_PAGE_BYTES = 20_000_000
SECONDS_BETWEEN_LOOKS = 5.0
SCRIPTS = ("dom.js", "matching.js", "store.js", "tables.js", "curves.js", "rollouts.js", "main.js")
CHUNK_NAME = re.compile(r"[0-9a-f]{16}\.js")


class Page(NamedTuple):
    """What a page is made of."""

    data: dict[str, Any]
    inlined: list[Chunk]
    chunks: list[Chunk]
    """Rollout texts: inlined into the page, or written beside it if there are too many."""
    is_finished: bool
    """Whether all runs have ended, so that watching can stop."""


def write_report(folders: Sequence[Path], out: Path, *, watch: bool = False) -> None:
    """Write the page; with `watch` again whenever a run has logged something, until all have finished.

    Raises:
        UserError: a folder that neither training nor evaluation wrote; `out` is something else than a report.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    check_folders(folders)
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = collect(folders)
    _write_page(report, out, live=watch and not report.is_finished)
    if watch and not report.is_finished:
        print(f"{out}: rewritten while training goes on; Ctrl-C ends this", flush=True)
        report = _keep_writing(folders, out)
    for problem in report.data["problems"]:
        print(f"{problem['name']}: {problem['text']}")
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def check_folders(folders: Sequence[Path]) -> None:
    """Raise a `UserError` unless each folder is a run or an evaluation."""
    if not folders:
        raise UserError("give the run folders to report on, or folders of srl evaluate")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected a run folder, or one of srl evaluate")
        if not is_run(folder) and not is_evaluation(folder):
            raise UserError(
                f"{folder}: neither a run folder (run.json, config.toml, metrics.jsonl) nor one of srl evaluate"
            )


def check_out(out: Path) -> None:
    """Raise a `UserError` if writing the page would overwrite something other than an earlier report."""
    if out.is_dir():
        raise UserError(f"{out}: expected a file to write, found a folder")
    if out.exists() and out.read_bytes()[: len(MARKER)] != MARKER.encode():
        raise UserError(f"{out}: exists and is no report of srl; choose another --out")
    beside = _folder_beside(out)
    if beside.exists() and not (beside.is_dir() and all(CHUNK_NAME.fullmatch(p.name) for p in beside.iterdir())):
        raise UserError(f"{beside}: needed for rollouts, and holds other things; choose another --out")


def _keep_writing(folders: Sequence[Path], out: Path) -> Page:
    try:
        report, seen = collect(folders), None
        while not report.is_finished:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if (now := _modified(folders)) != seen:
                report, seen = collect(folders), now
                _write_page(report, out, live=not report.is_finished)
    except KeyboardInterrupt:
        report = collect(folders)
        _write_page(report, out, live=False)
    return report


def _modified(folders: Sequence[Path]) -> list[int]:
    """Changes when a run logs something or ends."""
    names = (".", "metrics.jsonl", "run.json", "completions", "results.json")
    paths = [folder / name for folder in folders for name in names]
    return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]


def collect(folders: Sequence[Path]) -> Page:
    """Read all folders, and join their runs, results and rollouts into one page."""
    names = dict(zip(folders, labels(folders), strict=True))
    runs = [read_run(folder, names[folder]) for folder in folders if is_run(folder)]
    evaluations = [read_evaluation(folder, names[folder]) for folder in folders if is_evaluation(folder)]
    inlined: list[Chunk] = []
    chunks: list[Chunk] = []
    shown = [_with_rollouts(run, inlined, chunks) for run in runs]
    problems = [*((run.name, run.problems) for run in runs), *((item.name, item.problems) for item in evaluations)]
    data = {
        "runs": shown,
        "results": results_table(evaluations),
        "problems": [{"name": name, "text": text} for name, texts in problems for text in texts],
        "differences": differences(runs),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "srl": __version__,
    }
    return Page(data, inlined, chunks, all(run.is_finished for run in runs))


def _with_rollouts(run: Run, inlined: list[Chunk], chunks: list[Chunk]) -> dict[str, Any]:
    rollouts = read_rollouts(run)
    if rollouts:
        inlined.append(rollouts.index)
        chunks += rollouts.chunks
    return {
        **run.page_data(),
        "verdict": verdict(run)._asdict(),
        "elements": run.recipe.reward.elements if run.recipe else "characters",
        "index": rollouts and rollouts.index.id,
        "n_rollouts": rollouts.n_rollouts if rollouts else 0,
    }


def labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart.

    >>> labels([Path("/a/one/srl"), Path("/a/two/srl")])
    ['one/srl', 'two/srl']
    """
    ends = [["/".join(parts[-n:]) for n in range(1, len(parts) + 1)] for parts in (f.absolute().parts for f in folders)]
    return [next(end for end in own if sum(end in others for others in ends) == 1) for own in ends]


# --- writing ------------------------------------------------------------------------------------------


def _write_page(report: Page, out: Path, *, live: bool) -> None:
    """The page last, so that it never names a chunk that is not there; then what only the old page needed."""
    data = {**report.data, "live": SECONDS_BETWEEN_LOOKS if live else None, "beside": None}
    page = render(data, [*report.inlined, *report.chunks])
    beside = _folder_beside(out)
    needed = set()
    if len(page.encode()) > MAX_PAGE_BYTES:
        needed = {f"{chunk.id}.js" for chunk in report.chunks}
        beside.mkdir(exist_ok=True)
        for chunk in report.chunks:
            if not (beside / f"{chunk.id}.js").exists():
                write_text(beside / f"{chunk.id}.js", f'chunkLoaded("{chunk.id}", "{chunk.text}")\n')
        page = render({**data, "beside": beside.name}, report.inlined)
    write_text(out, page)
    if beside.is_dir():
        for path in beside.iterdir():
            if CHUNK_NAME.fullmatch(path.name) and path.name not in needed:
                path.unlink()
        if not needed:
            beside.rmdir()


def _folder_beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}_files")


def render(data: dict[str, Any], chunks: Sequence[Chunk]) -> str:
    """Fill the template. No text of a run can end its element: JSON has every `<` escaped, chunks are base64."""
    template = resources.files("srl.report") / "template"

    def text(name: str) -> str:
        return (template / name).read_text(encoding="utf-8")

    scripts = {"uplot": text("vendor/uPlot.iife.min.js"), "script": "\n".join(map(text, SCRIPTS))}
    sources = [f"'sha256-{b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in scripts.values()]
    parts = {
        **scripts,
        "script_sources": " ".join([*sources, *(["'self'", "file:"] if data["beside"] else [])]),
        "style": text("vendor/uPlot.min.css") + text("style.css"),
        "data": orjson.dumps(data).decode().replace("<", "\\u003c"),
        "chunks": "\n".join(f'<script type="text/plain" id="chunk-{c.id}">{c.text}</script>' for c in unique(chunks)),
    }
    return MARKER + re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text("page.html"))


def unique(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Each chunk once: runs that were copied share them."""
    return list({chunk.id: chunk for chunk in chunks}.values())
