"""What a message says, of one event or of many."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from blocks.notifiers.message import Level, PersonalMessage
from trainer.config.notifications import Notable
from trainer.contract.words import number, time_taken

MOST_LINES = 20
LEVELS = {
    Notable.COMPLETED: Level.SUCCESS,
    Notable.FAILED: Level.FAILURE,
    Notable.GPU_SICK: Level.FAILURE,
    Notable.MACHINE_LOST: Level.WARNING,
    Notable.GPU_OOM: Level.WARNING,
    Notable.TIMEOUT_WARNING: Level.WARNING,
    Notable.BUDGET: Level.WARNING,
    Notable.STOPPED: Level.WARNING,
}
"""Of all others: info."""
WORST = (Level.FAILURE, Level.WARNING, Level.SUCCESS, Level.INFO)
HEADLINES = {
    Notable.STARTED: "{name} has started",
    Notable.PROGRESS: "{name} is at {percent:g} %",
    Notable.PAUSED: "{name} has paused",
    Notable.FAILED: "{name} has failed",
    Notable.COMPLETED: "{name} has completed",
    Notable.STOPPED: "{name} was stopped",
    Notable.MACHINE_LOST: "{name} has lost its machine",
    Notable.CONTINUED: "{name} trains again",
    Notable.BUDGET: "{name} has spent {percent:g} % of its money",
    Notable.GPU_OOM: "{name}: the GPU's memory ran out",
    Notable.TIMEOUT_WARNING: "{name} has used up most of its time",
    Notable.GPU_SICK: "{name}: a GPU broke",
    Notable.BATCH: "batch {name} is at its end",
}
FACTS = {
    "reason": "",
    "suggestion": "→ ",
    "step": "step ",
    "train_loss": "loss ",
    "eval_loss": "eval loss ",
    "cost_usd": "cost (USD) ",
    "seconds": "took ",
    "output": "result ",
    "link": "",
}
"""Which facts stand in the text, in this order, and the word before each."""


def message_of(events: Sequence[Mapping[str, Any]]) -> PersonalMessage:
    """Return the message that tells of events, oldest first."""
    level = min((level_of(event) for event in events), key=WORST.index)
    ids = sorted(str(event["id"]) for event in events)
    told: dict[str, Any] = {
        "id": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32],
        "level": level,
        "events": tuple(dict(event) for event in events),
    }
    if len(events) == 1:
        return PersonalMessage(title=headline(events[0]), body=_body(events[0]), **told)
    jobs = {event["job"]["id"] for event in events}
    counts = Counter(str(event["what"]) for event in events)
    summary = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items())
    # The worst first: what is cut off must not be what matters.
    ranked = sorted(events, key=lambda event: WORST.index(level_of(event)))
    lines = [_line(event) for event in ranked[:MOST_LINES]]
    if len(events) > MOST_LINES:
        lines.append(f"and {len(events) - MOST_LINES} more")
    title = f"{len(events)} messages of {len(jobs)} job{'s' * (len(jobs) != 1)}: {summary}"
    return PersonalMessage(title=title, body="\n".join(lines), **told)


def headline(event: Mapping[str, Any]) -> str:
    """Return what happened, in a few words."""
    words = HEADLINES[Notable(event["what"])]
    return words.format(name=event["job"]["name"], percent=event.get("percent") or 0.0)


def level_of(event: Mapping[str, Any]) -> Level:
    """Return how bad an event is."""
    if event["what"] == Notable.BATCH:
        return Level.FAILURE if event.get("failed") else Level.SUCCESS
    return LEVELS.get(Notable(event["what"]), Level.INFO)


def _body(event: Mapping[str, Any]) -> str:
    lines = [
        f"{word}{_shown(name, event[name])}"
        for name, word in FACTS.items()
        if event.get(name) not in {None, ""}
    ]
    return "\n".join([*lines, *map(str, event.get("lines") or ())]) or headline(event)


def _line(event: Mapping[str, Any]) -> str:
    reason = str(event.get("reason") or "").partition("\n")[0]
    return f"{headline(event)}{f': {reason}' if reason else ''}"


def _shown(name: str, value: Any) -> str:
    if name == "seconds":
        return time_taken(float(value))
    return number(value) if isinstance(value, float) else str(value)
