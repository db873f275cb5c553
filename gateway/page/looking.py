"""What the page shows of jobs: chosen, in pages, with their log, their states and differences."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from blocks.home import runs
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.scheduling.labels import PROJECT, USER, text
from flows.shown import FLOW, is_part, job_state
from gateway import jobs
from gateway.access.callers import Caller
from gateway.cli.logs import mirror_of, print_log
from gateway.operations.finding import NoSuchJob
from gateway.prefect.client import PAGE, JobRun, LightClient
from gateway.view import printable
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.tail import TailReader

ROWS = 50
LINES = 400
TAIL_BYTES = 256 * 1024
MOST_COMPARED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs of the table a person wants to see."""

    state: str = ""
    provider: str = ""
    project: str = ""
    user: str = ""
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
        part = self.text.strip().lower()
        return not part or part in run.name.lower() or is_part(run.id, part)


def table(client: LightClient, caller: Caller, wanted: JobFilter, page: int) -> list[JobRun]:
    """Return a page of jobs, the newest first, and one more where there are more."""
    start = (page - 1) * ROWS
    if wanted == JobFilter() and caller.project is None:
        return client.flow_runs(FLOW, limit=min(ROWS + 1, PAGE), offset=start)
    # A job's state and provider are not Prefect's: all are looked through until the page is full.
    seen = (run for run in jobs.runs(client) if caller.sees(run.labels) and wanted.fits(run))
    return list(itertools.islice(seen, start, start + ROWS + 1))


def find(client: LightClient, caller: Caller, id: str) -> JobRun:
    """Return a job that the caller may see.

    Raises:
        NoSuchJob: there is none.
    """
    try:
        run = jobs.find(client, id)
    except ConfigError:
        raise NoSuchJob(f"There is no job {id!r}.", "List them: /") from None
    if not caller.sees(run.labels):
        raise NoSuchJob(f"There is no job {id!r}.", "List them: /")
    return run


def states(client: LightClient, run: JobRun) -> list[dict[str, Any]]:
    """Return the states that Prefect has of a run, the oldest first."""
    found = ask(client, f"/flow_run_states/?flow_run_id={run.id}", None)
    return sorted(found or [], key=lambda state: str(state["timestamp"]))


def ask(client: LightClient, path: str, body: dict[str, Any] | None) -> Any:
    """Return what Prefect's API answers; None: there is no such thing."""

    async def asked() -> Any:
        return await client.asking()(path, body)

    return asyncio.run(asked())


def log_lines(client: LightClient, run: JobRun, part: str) -> list[str]:
    """Return the last lines of the log, or the last that contain a text, in any case."""
    last: deque[str] = deque(maxlen=LINES)
    mirror = mirror_of(run.id)
    if mirror and not part:
        # Only the end is read: the page asks again every few seconds.
        begin = max(0, mirror.stat().st_size - TAIL_BYTES)
        for lines in TailReader(mirror, begin).chunks():
            last.extend(printable(line.decode(errors="replace").rstrip("\r\n")) for line in lines)
        return list(last)

    def keep(line: str) -> None:
        if part.lower() in line.lower():
            last.append(line)

    print_log(client, run, keep, follow=False, tail=None)
    return list(last)


def attempts(run: JobRun) -> list[dict[str, Any]]:
    """Return the machines that a job had, where its journal is on this computer."""
    here = (runs() / str(run.id)).is_dir()
    return Journal.of(RunFolder(run.id)).table() if here else []


def differences(asked: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the settings in which jobs differ: the name, and the value of each job.

    Args:
        asked: what each job was asked for, by its id.
    """
    flat = [dict(_flat(value)) for value in asked.values()]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [(name, [one.get(name, "") for one in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, "" if value is None else str(value)


def is_at_rest(run: JobRun) -> bool:
    """Whether nothing more happens with a job by itself."""
    return job_state(run) in {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}


def as_yaml(value: Any) -> str:
    """Return what a job was asked for as a job file has it."""
    text = io.StringIO()
    YAML().dump(value, text)
    return text.getvalue()
