"""Note what people are to be told of a run, from wherever it is decided.

Nothing here raises, or waits for anybody: `flows.notifying.delivering` sends what is noted.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from blocks.home import runs
from flows.logger import logger
from flows.notifying.destinations import Destination, destination_of, destinations
from flows.notifying.outbox import Outbox
from flows.renting.journal import Journal
from flows.reporting.alerts import progress_of
from flows.run_folder import RunFolder
from flows.scheduling.labels import BATCH, USER, Labels, text
from trainer.config import TrainingJob
from trainer.config.notifications import Notable
from trainer.contract.errors import GpuSick, MachineLost, OrchestratorError, TimeUp
from trainer.contract.files import read_json, replace_json

FILE = "notifications.json"
METRICS = ("train_loss", "eval_loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReceivers:
    """Who is told of a run, and what they were told that later messages depend on."""

    name: str
    user: str = ""
    batch: str = ""
    link: str = ""
    """Of the run's page."""
    destinations: list[dict[str, Any]] = field(default_factory=list)
    executions: int = 0
    """How often a flow began to work on the run."""
    losses: int = 0
    """How many machines and GPUs it lost."""
    continued: int = 0
    """After how many of them it was seen to train again."""
    supervised_since: float | None = None
    """When the present supervisor was started; seconds since the epoch."""

    @property
    def receivers(self) -> list[Destination]:
        """Who gets messages of this run alone."""
        found = [destination_of(each) for each in self.destinations]
        return [one for one in found if not (self.batch and one.batches == "one")]


def told_of(run_id: str) -> RunReceivers | None:
    """Return who is told of a run; None for one of which nobody is."""
    record = read_json(runs() / run_id / FILE)
    known = RunReceivers.__dataclass_fields__
    return RunReceivers(**{k: v for k, v in record.items() if k in known}) if record else None


def begin(run: RunFolder, job: TrainingJob, labels: Labels, link: str) -> list[Destination]:
    """Note who is told of a run on which a flow begins to work, and return them."""
    try:
        user = text(labels, USER)
        found = destinations(user, job.notifications)
        before = told_of(run.run_id)
        if not (found or before):
            return []
        told = replace(
            before or RunReceivers(name=job.name),
            user=user,
            batch=text(labels, BATCH),
            link=link,
            destinations=[each.to_dict() for each in found],
            executions=(before.executions if before else 0) + 1,
        )
        _save(run, told)
    except Exception as error:  # noqa: BLE001 - the outer edge: no message is worth a job
        logger().warning("nobody is told of this run: %s", error)
        return []
    return told.receivers


def started(run: RunFolder, total_steps: int) -> None:
    """It trains: for the first time, or once more after it had lost what it trained on."""
    told = told_of(run.run_id)
    if told is None:
        return
    note(run, Notable.STARTED, "started", total_steps=total_steps or None)
    if told.continued < told.losses:
        note(run, Notable.CONTINUED, f"continued {told.losses}")
        _change(run, continued=told.losses)


def completed(run: RunFolder, report: Mapping[str, Any]) -> None:
    """The artifact is home and verified."""
    started(run, 0)  # a short training may be over before it was seen running
    metrics = report.get("metrics") or {}
    note(
        run,
        Notable.COMPLETED,
        "completed",
        **{name: metrics.get(name) for name in METRICS},
        seconds=report.get("seconds"),
        output=report.get("path"),
        sha256=report.get("sha256"),
        reason=report.get("missing"),
    )


def failed(run: RunFolder, error: OrchestratorError) -> None:
    """The job ended with an error."""
    note(
        run,
        Notable.FAILED,
        _once_an_execution(run, Notable.FAILED),
        reason=error.message.rstrip(),
        suggestion=error.suggestion,
        error_type=type(error).__name__,
    )


def stopped(run: RunFolder, why: str) -> None:
    """The job was stopped: as asked, or because a limit was reached."""
    note(run, Notable.STOPPED, _once_an_execution(run, Notable.STOPPED), reason=why)


def paused(run: RunFolder, why: str) -> None:
    """The job rests until it is resumed."""
    note(run, Notable.PAUSED, _once_an_execution(run, Notable.PAUSED), reason=why)


def lost(run: RunFolder, error: MachineLost) -> None:
    """A machine, or a GPU, was lost; the job looks for another."""
    if isinstance(error, TimeUp) or (told := told_of(run.run_id)) is None:
        return  # an end that was announced when the machine was hired
    what = Notable.GPU_SICK if isinstance(error, GpuSick) else Notable.MACHINE_LOST
    number = told.losses + 1
    note(run, what, f"lost {number}", reason=error.message, suggestion=error.suggestion)
    _change(run, losses=number)


def supervisor_started(run: RunFolder) -> None:
    """Note that `limits.max_runtime_minutes` counts from now."""
    _change(run, supervised_since=time.time())


def note(run: RunFolder, what: Notable, key: str, **facts: Any) -> None:
    """Let an event wait for everybody who is told of it.

    Args:
        run: whose it is.
        what: happened.
        key: the same for all that is noted of the same thing in this run.
        facts: what it says; None is left out.
    """
    try:
        told = told_of(run.run_id)
        receivers = [one for one in told.receivers if what in one.events] if told else []
        if told is None or not receivers:
            return
        event = {
            "id": str(uuid5(UUID(run.run_id), f"notification/{key}")),
            "what": what,
            "at": time.time(),
            "job": {"id": run.run_id, "name": told.name, "user": told.user, "batch": told.batch},
            **_numbers(run),
            **{name: value for name, value in facts.items() if value is not None},
            **({"link": told.link} if told.link else {}),
        }
        for receiver in receivers:
            Outbox.of(receiver).add(event)
    except Exception as error:  # noqa: BLE001 - the outer edge: no message is worth a job
        logger().warning("nobody is told that the job is %s: %s", what, error)


def _numbers(run: RunFolder) -> dict[str, Any]:
    """Return how far it is, and what it cost."""
    progress = progress_of(run.metrics)
    step, total = progress["current_step"], progress.get("total_steps")
    cost = Journal.of(run).cost()
    return {
        **({"step": f"{step} of {total}" if total else str(step)} if step else {}),
        **({"train_loss": progress["loss"]} if "loss" in progress else {}),
        **({"cost_usd": cost} if cost else {}),
    }


def _once_an_execution(run: RunFolder, what: Notable) -> str:
    """Return the key of an end: a job that is resumed may end again, which is told once more."""
    told = told_of(run.run_id)
    return f"{what} {told.executions if told else 0}"


def _change(run: RunFolder, **changes: Any) -> None:
    try:
        if told := told_of(run.run_id):
            _save(run, replace(told, **changes))
    except OSError as error:
        logger().warning("what was told of the run could not be noted: %s", error)


def _save(run: RunFolder, told: RunReceivers) -> None:
    replace_json(_file(run), dataclasses.asdict(told))


def _file(run: RunFolder) -> Path:
    return run.root / FILE
