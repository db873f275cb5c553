"""What a training elsewhere reports about itself as an alert, told to people as everything else is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from flows.notifying import noting
from flows.notifying.destinations import destinations
from flows.notifying.outbox import Outbox
from flows.reporting.alerts import Alert
from flows.run_folder import RUN_ID, RunFolder
from trainer.config.notifications import Notable

WHAT = {
    Alert.STARTED: Notable.STARTED,
    Alert.COMPLETED: Notable.COMPLETED,
    Alert.FAILED: Notable.FAILED,
    Alert.CANCELLED: Notable.STOPPED,
    Alert.GPU_OOM: Notable.GPU_OOM,
    Alert.TIMEOUT_WARNING: Notable.TIMEOUT_WARNING,
}


def tell_of_alert(alert: Mapping[str, Any]) -> int:
    """Let people be told of an alert, and return how many are.

    Of a run of this installation those are told whom it tells anyway, and of nothing twice. Of any
    other job those are whom `notifications.yaml` names for all jobs and for its user.

    Args:
        alert: `type`, `job_id`, `user_id` and what else the alert's contract has; see docs/reporting.md.

    Raises:
        ConfigError: `notifications.yaml` is not right.
    """
    what = WHAT[Alert(alert["type"])]
    job = str(alert["job_id"])
    told = noting.told_of(job) if RUN_ID.fullmatch(job) else None
    if told is not None:
        # Its flow tells of these by itself, whether or not the alert comes.
        if what in {Notable.STARTED, Notable.COMPLETED, Notable.FAILED, Notable.STOPPED}:
            return len(told.receivers)
        noting.note(RunFolder(UUID(job)), what, _identity(alert), reason=alert.get("error_message"))
        return len(told.receivers)
    receivers = [
        one for one in destinations(str(alert.get("user_id") or ""), None) if what in one.events
    ]
    event = {
        "id": str(uuid5(NAMESPACE_URL, f"{job}/{_identity(alert)}")),
        "what": what,
        "at": time.time(),
        "job": {"id": job, "name": _name(alert), "user": str(alert.get("user_id") or "")},
        **_facts(alert),
    }
    for receiver in receivers:
        Outbox.of(receiver).add(event)
    return len(receivers)


def _identity(alert: Mapping[str, Any]) -> str:
    """Return what an alert and its repetition have in common."""
    parts = (alert["type"], alert.get("current_step"), alert.get("error_message"))
    return " ".join("" if part is None else str(part) for part in parts)


def _name(alert: Mapping[str, Any]) -> str:
    model = alert.get("model_name")
    return f"{alert['job_id']} ({model})" if model else str(alert["job_id"])


def _facts(alert: Mapping[str, Any]) -> dict[str, Any]:
    step, total, duration = (alert.get(n) for n in ("current_step", "total_steps", "duration"))
    facts = {
        "step": f"{step} of {total}" if step and total else step,
        "train_loss": alert.get("loss"),
        "seconds": None if duration is None else float(duration) / 1000,
        "reason": alert.get("error_message"),
        "error_type": alert.get("error_type"),
        "percent": alert.get("progress"),
    }
    return {name: value for name, value in facts.items() if value is not None}
