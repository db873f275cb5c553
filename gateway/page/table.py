"""The table of jobs: which ones, in which order, and what is done to several at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient

from flows.scheduling.labels import PROJECT, USER, text
from flows.shown import FLOW, is_part
from gateway import jobs
from gateway.access.callers import Caller
from gateway.operations.creating import KEY_TAG
from gateway.prefect.client import PAGE, JobRun, LightClient
from trainer.contract.errors import ConfigError
from trainer.contract.metrics import Record

ROWS = 50
MOST_SORTED = 400
"""Prefect sorts by none of these: so many of the newest are read and put in order."""
MOST_TAG = 60  # characters
NEWEST = "-created"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs of the table a person wants to see."""

    state: str = ""
    provider: str = ""
    project: str = ""
    user: str = ""
    tag: str = ""
    text: str = ""

    def fits(self, run: JobRun) -> bool:
        """Whether a job is one of them."""
        asked = {
            "state": (self.state, jobs.state_shown(run)),
            "provider": (self.provider, jobs.provider_of(run)),
            "project": (self.project, text(run.labels, PROJECT)),
            "user": (self.user, text(run.labels, USER)),
        }
        if any(value and value != has for value, has in asked.values()):
            return False
        if self.tag and self.tag not in tags_of(run):
            return False
        part = self.text.strip().lower()
        return not part or part in run.name.lower() or is_part(run.id, part)


@dataclass(frozen=True, slots=True)
class Column:
    """A column by which the table is sorted."""

    title: str
    key: Callable[[Row], Any]
    """Of a row; None and an empty text come last, whichever way."""
    is_number: bool = False


COLUMNS = {
    "name": Column("Name", lambda row: row["view"].name.lower()),
    "state": Column("State", lambda row: row["view"].state),
    "provider": Column("Provider", lambda row: row["provider"]),
    "user": Column("User", lambda row: row["user"]),
    "step": Column("Step", lambda row: row["view"].share or None, is_number=True),
    "loss": Column("Loss", lambda row: row["view"].train_loss, is_number=True),
    "eval": Column("Eval", lambda row: row["view"].eval_loss, is_number=True),
    "created": Column("Created, UTC", lambda row: row["created"], is_number=True),
    "took": Column("Took", lambda row: row["seconds"], is_number=True),
}
"""By the names that the page's address has; a minus before one turns the order round."""


def tags_of(run: JobRun) -> list[str]:
    """Return a job's tags that people gave it."""
    return [str(tag) for tag in run.value.get("tags") or () if not str(tag).startswith(KEY_TAG)]


def table(
    client: LightClient, caller: Caller, wanted: JobFilter, page: int, sort: str = NEWEST
) -> tuple[list[Row], bool]:
    """Return a page of rows, and whether there are more.

    Args:
        client: of Prefect.
        caller: who looks.
        wanted: which jobs.
        page: from 1.
        sort: one of `COLUMNS`, or that with a minus.

    Raises:
        ConfigError: there is no such column.
    """
    start = (page - 1) * ROWS
    if sort != NEWEST:
        found = _in_order(client, _fitting(client, caller, wanted), sort)
        return found[start : start + ROWS], len(found) > start + ROWS
    if wanted == JobFilter() and caller.project is None:
        runs = client.flow_runs(FLOW, limit=min(ROWS + 1, PAGE), offset=start)
    else:  # a job's state and provider are not Prefect's: all are looked through for a page
        fitting = _fitting(client, caller, wanted)
        runs = list(itertools.islice(fitting, start, start + ROWS + 1))
    return _rows(client, runs[:ROWS]), len(runs) > ROWS


def _fitting(client: LightClient, caller: Caller, wanted: JobFilter) -> Iterator[JobRun]:
    return (run for run in jobs.runs(client) if caller.sees(run.labels) and wanted.fits(run))


def _in_order(client: LightClient, fitting: Iterable[JobRun], sort: str) -> list[Row]:
    column = COLUMNS.get(sort.removeprefix("-"))
    if column is None:
        raise ConfigError(
            f"sort = {sort!r}: there is no such column; there are: {', '.join(COLUMNS)}.",
            "Choose one.",
        )
    rows = _rows(client, list(itertools.islice(fitting, MOST_SORTED)))
    known = [row for row in rows if column.key(row) not in {None, ""}]
    others = [row for row in rows if column.key(row) in {None, ""}]
    return sorted(known, key=column.key, reverse=sort.startswith("-")) + others


def _rows(client: LightClient, runs: list[JobRun]) -> list[Row]:
    steps = jobs.metrics(client, [run.id for run in runs])
    return [_row(run, steps.get(run.id, {})) for run in runs]


def _row(run: JobRun, steps: dict[int, Record]) -> Row:
    return {
        "view": jobs.view(run, steps),
        "provider": jobs.provider_of(run),
        "user": text(run.labels, USER),
        "project": text(run.labels, PROJECT),
        "tags": tags_of(run),
        "created": run.created,
        "seconds": jobs.seconds(run),
    }


def checked_tag(tag: str) -> str:
    """Return a tag as it is kept.

    Raises:
        ConfigError: it is empty, too long, or could be one of those that programs set.
    """
    tag = tag.strip()
    if not tag or len(tag) > MOST_TAG or not tag.isprintable() or ":" in tag:
        raise ConfigError(
            f"tag = {tag[:MOST_TAG]!r}: must be 1 to {MOST_TAG} characters without a colon.",
            "Write another one.",
        )
    return tag


async def set_tag(client: PrefectClient, job_id: UUID, tag: str, *, on: bool) -> None:
    """Give a job a tag, or take it away."""
    run = await client.read_flow_run(job_id)
    others = [one for one in run.tags if one != tag]
    await client.update_flow_run(job_id, tags=[*others, *([tag] if on else [])])
