"""The one sentence that says how far a job was saved when it came to rest."""

from __future__ import annotations

from flows.run_folder import RunFolder
from trainer.contract.checkpoints import all_checkpoints, step_of
from trainer.contract.files import read_json
from trainer.contract.job_directory import Status
from trainer.contract.metrics import read_metrics

STOPPED = "Stopped"
"""The name of the state, in Prefect, of a job that was stopped."""


def saved(run: RunFolder) -> str:
    """Return `saved at step 7 of 9`, by the newest checkpoint here or in the store."""
    directory = run.job_directory()
    status = directory.read_status() if directory else Status()
    step = saved_step(run)
    records, _ = read_metrics(run.metrics)
    total = status.total_steps or next(
        (int(r["total_steps"]) for r in reversed(records.values()) if r.get("total_steps")), 0
    )
    return as_sentence(step, total, max(status.step, *records, 0))


def stored_steps(run: RunFolder, kind: str = "steps") -> list[int]:
    """Return the steps of the run's checkpoints in its store, the newest first, as they were noted.

    Args:
        run: whose.
        kind: "steps"; or "aside" for those that the store did not hand out when they were wanted.
    """
    noted = (read_json(run.stored) or {}).get(kind)
    return sorted(map(int, noted), reverse=True) if isinstance(noted, list) else []


def saved_step(run: RunFolder) -> int:
    """Return the step of the newest checkpoint on this computer or in the store; 0: there is none."""
    # A job of this computer has its checkpoints in the job directory, others in the mirror; one
    # that moved has both.
    directory = run.job_directory()
    folders = [run.checkpoints, *([directory.checkpoints] if directory else [])]
    here = (step_of(path) for folder in folders for path in all_checkpoints(folder))
    return max([*here, *stored_steps(run)], default=0)


def as_sentence(step: int, total: int, reached: int) -> str:
    """Return how far a job is saved, in words.

    Args:
        step: of the newest checkpoint; 0: there is none.
        total: how many steps the job has; 0: not known yet.
        reached: how many steps were done.
    """
    if step:
        return f"saved at step {step} of {total}" if total else f"saved at step {step}"
    return f"nothing was saved by step {reached}" if reached else "before the first step"
