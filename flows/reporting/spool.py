"""What is noted about the reports of a run: whose they are, the alerts, and how far delivery is.

The metrics themselves are at home already, in the run's mirror of `metrics.jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.home import private_folder
from flows.run_folder import RunFolder
from trainer.contract.files import NOT_JSON, read_json, replace_json, replace_text


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryCursor:
    """How far one kind of report is with its receiver."""

    offset: int = 0
    """Bytes of the metrics, or number of alerts, that are done with."""
    step: int = -1
    """The last step that was delivered."""
    evaluated: int = -1
    """The last step whose evaluation was delivered."""
    refused: bool = False
    """Whether the receiver's last answer was a refusal."""
    retry_at: float = 0.0
    """Until when reconcile leaves the receiver alone; seconds since the epoch."""
    given_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Whose reports these are; set when the run first reports, so that every process agrees."""

    job_id: str
    user_id: str
    model_name: str
    alerts: bool
    """Whether alerts are wanted."""
    executions: int = 0
    """How often a flow began to work on the run."""
    supervised_since: float | None = None
    """When the present supervisor was started; seconds since the epoch."""


class DeliveryFolder:
    """Where it is noted how far each kind of report is with its receiver."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def cursor(self, kind: str) -> DeliveryCursor:
        """Return how far reports of this kind are."""
        record = read_json(self._cursor(kind)) or {}
        names = {entry.name for entry in dataclasses.fields(DeliveryCursor)}
        return DeliveryCursor(**{k: v for k, v in record.items() if k in names})

    def save_cursor(self, kind: str, cursor: DeliveryCursor) -> None:
        """Note how far reports of this kind are, so that the death of this process loses nothing.

        It is not synced: that would cost the job's disk a flush for each batch, to spare the
        receiver one repeated batch after a power cut.
        """
        replace_json(self._cursor(kind), dataclasses.asdict(cursor), durable=False)

    def lock(self, kind: str) -> Path:
        """Return the lock of the process that delivers reports of this kind."""
        return self.root / f".{kind}.lock"

    def _cursor(self, kind: str) -> Path:
        return self.root / f"{kind}-cursor.json"


class Spool(DeliveryFolder):
    """Names, reads and writes the files of one run's reports. None of them holds a key."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(run.root / "reporting")
        self._who = self.root / "job.json"
        self.alerts_file = self.root / "alerts.jsonl"

    def who(self) -> Who | None:
        """Return whose reports these are; None for a run that does not report."""
        record = read_json(self._who)
        # A newer version may have written fields that this one does not know.
        names = {entry.name for entry in dataclasses.fields(Who)}
        try:
            return Who(**{k: v for k, v in record.items() if k in names}) if record else None
        except TypeError:
            return None

    def save_who(self, who: Who) -> None:
        """Note whose reports these are."""
        private_folder(self.root)
        replace_json(self._who, dataclasses.asdict(who))

    def alerts(self) -> list[dict[str, Any]]:
        """Return every alert there was, oldest first: `key`, `at`, `body`."""
        try:
            lines = self.alerts_file.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except NOT_JSON:
                # A placeholder: the cursor counts lines, and would otherwise skip a good one.
                found.append({"key": "", "at": 0.0, "body": None})
        return found

    def add_alert(self, key: str, at: float, body: dict[str, Any]) -> None:
        """Note an alert, once: one of the same key is not noted again."""
        alerts = self.alerts()
        # Written anew as a whole, by rename: a crash while appending would leave half a line.
        if key not in {alert["key"] for alert in alerts}:
            alerts.append({"key": key, "at": at, "body": body})
            replace_text(self.alerts_file, "".join(f"{json.dumps(alert)}\n" for alert in alerts))
