"""What the orchestrator itself keeps of a run: mirrors of log, metrics and events, and cursors.

A mirror is only ever appended to, so its size is the offset to go on from.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from blocks.home import artifacts, instances, private_folder, runs
from blocks.marks import ours, run_prefix
from flows.attended import LOCK
from flows.shown import short_id
from trainer.contract.job_directory import JobDirectory

RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def this_run_id() -> UUID:
    """Return the id of the flow run that calls.

    Raises:
        RuntimeError: no flow run calls.
    """
    from prefect.runtime import flow_run  # here, because naming files must not cost its import

    run_id = flow_run.get_id()
    if run_id is None:
        raise RuntimeError("this is called outside of a flow run")
    return UUID(str(run_id))


class RunFolder:
    """Names the files of one flow run."""

    def __init__(self, run_id: str | UUID) -> None:
        self.run_id = str(UUID(str(run_id)))
        self.root = private_folder(runs() / self.run_id)
        self.log = self.root / "train.log"
        self.metrics = self.root / "metrics.jsonl"
        self.events = self.root / "events.jsonl"
        self.log_cursor = self.root / "log-cursor.json"
        self.notes = self.root / "notes.log"
        """What a terminal that follows the run has to show."""
        self.report = self.root / "report.json"
        self.journal = self.root / "machines.json"
        self.estimate = self.root / "estimate.json"
        """What the job was estimated to take; see `flows.renting.cost_estimate`."""
        self.adapter = self.root / "adapter.json"
        """Which folder `training.adapter` meant at first, where it named a job; see `flows.train`."""
        self.outputs = self.root / "outputs.json"
        """Which folders `${NAME.output}` meant at first, by the names of jobs; see `flows.batches.outputs`."""
        self.contact = self.root / "contact.json"
        """When our last word reached its machines; see `flows.renting.contact`."""
        self.checkpoints = self.root / "checkpoints"
        """Checkpoints of machines elsewhere, whole and verified."""
        self.reports = self.root / "reports"
        """What TensorBoard, wandb and mlflow wrote on the machine."""
        self.stored = self.root / "stored.json"
        """What of it lies in the job's store; see `flows.streaming.run_store`."""
        self.rescued = self.root / "rescued"
        """An output that came home from a machine whose flow had ended."""
        self.lock = self.root / LOCK

    @classmethod
    def of_this_run(cls) -> RunFolder:
        """Return the folder of the flow run that calls."""
        return cls(this_run_id())

    def node_log(self, attempt: int, rank: int) -> Path:
        """Return the mirror of the log of a machine that takes part beside the first."""
        return private_folder(self.root / "nodes") / f"{attempt}-{rank}.log"

    def job_directory(self) -> JobDirectory | None:
        """Return the run's newest job directory on this computer, if there is one."""
        folders = [path for path in instances().glob(f"{self._prefix()}*") if ours(path.name)]
        newest = max(folders, key=lambda path: _attempt(path.name), default=None)
        return JobDirectory(newest) if newest else None

    def _prefix(self) -> str:
        return run_prefix(UUID(self.run_id))

    def artifact(self, job_name: str, output_dir: str | None) -> Path:
        """Return where the verified result of a job goes."""
        if output_dir:
            return Path(output_dir).expanduser().absolute()
        return artifacts() / f"{job_name}-{short_id(self.run_id)}"


def run_folders() -> list[Path]:
    """Return the folders of all runs of this computer; anything else in there is skipped."""
    return [path for path in sorted(runs().iterdir()) if RUN_ID.fullmatch(path.name)]


def newest(
    folders: Iterable[RunFolder], most: int, file: Callable[[RunFolder], Path]
) -> list[RunFolder]:
    """Return the runs whose file of a kind was written last, the newest first; others have none.

    Args:
        folders: of the runs, of which some may be removed meanwhile.
        most: how many at most.
        file: returns a run's file.
    """
    times: list[tuple[float, RunFolder]] = []
    for folder in folders:
        with suppress(OSError):
            times.append((file(folder).stat().st_mtime, folder))
    return [folder for _, folder in heapq.nlargest(most, times, key=lambda pair: pair[0])]


def _attempt(name: str) -> int:
    mark = ours(name)
    return mark.attempt if mark else 0
