"""One file per public trajectory format, each turning it into the records of `srl.records`."""

from __future__ import annotations

from typing import Any, Protocol

from srl.data.formats.written import Written
from srl.files import Row
from srl.records import Problem, StepInstance, Trajectory

Record = Trajectory | Written | StepInstance | Problem


class Format(Protocol):
    """What the module of a format offers."""

    @property
    def NAME(self) -> str:
        """What people call it: shown where it was recognised, and asked for with `--format`."""

    def recognise(self, value: Any) -> str | None:
        """Why this parsed JSON value is of the format ("`messages` with roles"), or None; cheap."""

    def read(self, row: Row, trajectory_id: str) -> Record:
        """One row as a record.

        Raises:
            UserError: the row is broken.
            Unusable: it is well formed and holds no usable expert trajectory.
        """
