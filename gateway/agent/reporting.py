"""What an agent tells its backend of each job: metrics, log lines and status, as document 004 has it.

It reads what is on disk and what Prefect has, beside everything else, so no training waits for it. How
far the backend has it is noted after each 2xx, so a backend or an agent that was away loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from uuid import UUID

import httpx
from fastapi import Depends
from fastapi.requests import HTTPConnection
from prefect.client.orchestration import PrefectClient

from blocks.home import home, private_folder
from blocks.providers.connections import new_client
from blocks.secrets.reading import secret
from flows.prefect_api import UNANSWERED
from flows.reporting.delivery import POST_SECONDS
from gateway.agent.links import Links
from gateway.agent.reported_job import ReportedJob
from gateway.operations.finding import is_draft, known_job
from gateway.streams.states import StateWatch
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json, replace_json
from trainer.contract.redaction import remember

LOOK_SECONDS = 1.0
FILE = "job.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backend:
    """Who is told of the jobs of this service; without an address, nobody."""

    url: str = ""
    has_links: bool = False
    """Whether jobs are noted without one too, for the links to their files."""

    def reports_with(self, token: str | None) -> Callable[[str], None] | None:
        """Return what notes that a job of an id is reported with a token; None: nobody is told.

        Raises:
            ConfigError: a token was given and there is no backend, or a backend and no key for it.
        """
        if not self.url:
            if token is not None:
                raise ConfigError(
                    "job_token is given, and this service reports to no backend.",
                    "Leave it out, or set BACKEND_URL and start the service by trainctl agent.",
                )
            if not self.has_links:
                return None
        elif token is None and not secret("API_KEY"):
            raise ConfigError(
                "job_token is missing, and the agent has no API_KEY: its backend would refuse it.",
                "Give job_token, or set API_KEY where the agent runs.",
            )

        def note(job_id: str) -> None:
            if token is not None:
                remember(token)
            folder = private_folder(jobs_folder() / job_id)
            # For its owner alone, as the folder is. Without a token of its own: the agent's key.
            replace_json(folder / FILE, {"token": token})

        return note


def jobs_folder() -> Path:
    """Return the folder of the jobs that are reported: each has its token and its cursors there."""
    return private_folder(home() / "agent")


class BackendReporter:
    """Reports all jobs that were noted, each in a task of its own."""

    def __init__(self, url: str, prefect: PrefectClient, links: Links | None = None) -> None:
        self._url = url
        self._prefect = prefect
        self._links = links
        self._states = StateWatch()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Report. Runs until it is cancelled; what is not delivered by then comes next time."""
        async with new_client(POST_SECONDS) as client:
            watching = asyncio.create_task(self._states.run())
            try:
                while True:
                    for job_id, token in await asyncio.to_thread(lambda: list(_noted())):
                        if job_id not in self._tasks:
                            self._tasks[job_id] = self._begin(job_id, token, client)
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                tasks = (watching, *self._tasks.values())
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, job_id: str, token: str, client: httpx.AsyncClient) -> asyncio.Task[None]:
        job = ReportedJob(jobs_folder() / job_id, job_id, self._url, token, self._links)
        return asyncio.create_task(self._report(job, client))

    async def _report(self, job: ReportedJob, client: httpx.AsyncClient) -> None:
        """Report one job until nothing more of it can come."""
        try:
            if (run_id := await self._submitted(job.job_id)) is not None:
                self._states.watch(run_id, job.heard)
                try:
                    await job.report(run_id, client)
                finally:
                    self._states.unwatch(run_id)
            await asyncio.to_thread(shutil.rmtree, job.root)
        except Exception:
            log.exception("job %s is reported no more until the agent starts again", job.job_id)

    async def _submitted(self, job_id: str) -> UUID | None:
        """Return the run of a job once it is submitted; None: there is no such job any more."""
        while True:
            try:
                run = await known_job(self._prefect, job_id)
            except UNANSWERED:
                pass
            else:
                if run is None or not is_draft(run):
                    return None if run is None else run.id
            await asyncio.sleep(LOOK_SECONDS)


def _noted() -> Iterator[tuple[str, str]]:
    """Yield id and token of each job that is reported."""
    for file in jobs_folder().glob(f"*/{FILE}"):
        if (found := read_json(file)) is not None:
            yield file.parent.name, remember(found.get("token") or secret("API_KEY"))


def _backend(connection: HTTPConnection) -> Backend:
    found: Backend = getattr(connection.app.state, "backend", None) or Backend()
    return found


ToBackend = Annotated[Backend, Depends(_backend)]
"""A parameter of a route that is given who is told of jobs."""
