"""`srl experiment`, `srl demo`, `srl tiny`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from srl.errors import UserError


@dataclass(frozen=True)
class ExperimentCommand:
    """Train all arms of an experiment under one protocol, and compare them on problems that none of them saw."""

    experiment: tyro.conf.Positional[Path]
    """An experiment file (docs/experiments.md), or the name of one of srl's own: paper-tiny, demo, code-repair."""
    out: Path | None = None
    """The folder for everything. Default: runs/NAME. Finished runs in it are kept."""
    seeds: int = 5
    jobs: int | None = None
    """Runs at a time. By default one per core with a [domain], else one, which may have a whole GPU."""
    overwrite: bool = False
    """Delete an earlier experiment in the same folder."""

    def run(self) -> None:
        """Run the experiment."""
        from srl.study import conduct

        if self.seeds < 1 or (self.jobs is not None and self.jobs < 1):
            raise UserError("--seeds and --jobs must be 1 or more")
        out = self.out or Path("runs") / self.experiment.stem
        conduct(self.experiment, out, n_seeds=self.seeds, n_jobs=self.jobs, overwrite=self.overwrite)


@dataclass(frozen=True)
class Demo:
    """The experiment `demo`: a tiny base model, then SFT, RLVR, SRL, and SRL with RLVR after it, on a CPU."""

    out: Path = Path("runs/demo")
    """The folder for everything. Finished runs in it are kept."""
    seeds: int = 1
    jobs: int | None = None
    """Runs at a time, one core each; by default as many as there are cores."""
    overwrite: bool = False
    """Delete an earlier demo in the same folder."""

    def run(self) -> None:
        """Run the whole demo."""
        ExperimentCommand(Path("demo"), self.out, self.seeds, self.jobs, self.overwrite).run()


@dataclass(frozen=True)
class Tiny:
    """Write the embedded tiny Qwen2 model, untrained, to try a recipe or a data set with."""

    out: Path
    """The model folder to write."""
    seed: int = 0

    def run(self) -> None:
        """Write the model folder."""
        from srl.files import new_folder
        from srl.study.tiny import write_model

        with new_folder(self.out) as folder:
            write_model(folder, self.seed)
        print(f"wrote {self.out}/")
