"""Links from the folders that document 004 names to where the files of a job are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from blocks.home import runs
from flows.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Links:
    """The folders in which links are made; None: in none."""

    checkpoints: Path | None
    logs: Path | None

    @property
    def are_wanted(self) -> bool:
        """Whether any are made."""
        return bool(self.checkpoints or self.logs)

    def make(self, job_id: str, run_id: UUID) -> None:
        """Let links of a job's id lead to what there is of it by now."""
        if not (runs() / str(run_id)).is_dir():
            return
        run = RunFolder(run_id)
        if self.logs and run.log.exists():
            _link(self.logs / f"{job_id}.log", run.log)
        if self.checkpoints and (directory := run.job_directory()):
            _link(self.checkpoints / job_id, directory.checkpoints)


def _link(path: Path, target: Path) -> None:
    """Let a link lead to a file or folder, whatever it led to before; what is no link stays."""
    path = path.expanduser().absolute()
    if path.is_symlink():
        if path.readlink() == target:
            return
        path.unlink()
    elif path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
