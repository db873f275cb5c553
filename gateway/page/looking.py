"""What the page shows of a job: its log, its states, and in what it differs from others."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML

from flows.shown import job_state
from gateway import jobs
from gateway.access.callers import Caller
from gateway.cli.logs import mirror_of, print_log
from gateway.operations.finding import NoSuchJob
from gateway.prefect.client import JobRun, LightClient
from gateway.view import printable
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.tail import TailReader

LINES = 400
TAIL_BYTES = 256 * 1024
MOST_COMPARED = 20


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


def can_resume(run: JobRun) -> bool:
    """Whether a job goes on when somebody asks for it."""
    return job_state(run) in {JobState.PAUSED, JobState.FAILED, JobState.STOPPED}


def is_at_rest(run: JobRun) -> bool:
    """Whether nothing more happens with a job by itself."""
    return job_state(run) in {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}


def as_yaml(value: Any) -> str:
    """Return what a job was asked for as a job file has it."""
    text = io.StringIO()
    YAML().dump(value, text)
    return text.getvalue()
