"""`AsyncTrainingOrchestrator`: one method an operation of the HTTP interface."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from blocks.secrets.reading import secret
from gateway.client.models import AskedJob, DownloadedArtifact, JobRecord, job_of, moment_of
from gateway.client.refusals import RequestRejected
from gateway.client.stream import StreamedEvent, streamed
from gateway.client.wire import Wire
from trainer.contract.errors import IntegrityError, OrchestratorError
from trainer.contract.files import sha256_of
from trainer.contract.job_directory import JobState

URL = "TRAINING_ORCHESTRATOR_URL"
"""The variable with the service's address."""
KEY = "TRAINING_ORCHESTRATOR_API_KEY"
"""The variable with the key."""
JOBS = "/api/training/jobs"
PAGE, LINES = 200, 1000
POLL_SECONDS = 2.0


class AsyncTrainingOrchestrator:
    """Jobs of a service, or of this computer where there is none."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
    ) -> None:
        """Prepare it; nothing is connected before the first call.

        Args:
            url: the service's address; None: that of TRAINING_ORCHESTRATOR_URL, and without one no service:
                this process does what it would do.
            key: an API key; None: that of TRAINING_ORCHESTRATOR_API_KEY.
            timeout: seconds for an answer to begin.
            retries: how often a call is made again when nobody answers, or the service is busy.
        """
        self._url = url or os.environ.get(URL) or None
        self._key = key
        self._timeout = timeout
        self._retries = retries
        self._open: AsyncExitStack | None = None
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> AsyncTrainingOrchestrator:
        await self._connected()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._open:
            opened, self._open, self._wire = self._open, None, None
            await opened.aclose()

    async def create_job(self, config: AskedJob | Mapping[str, Any]) -> JobRecord:
        """Create a job; nothing is trained before `start_training`.

        Args:
            config: a `TrainingConfig`, or a mapping of its fields.

        Raises:
            OrchestratorError: see `gateway.client.refusals`; so does every method here.
        """
        body = config.body() if isinstance(config, AskedJob) else dict(config)
        answer = await (await self._connected()).post(JOBS, body)
        return job_of({**answer, "config": body})

    async def start_training(self, job_id: str, provider: str | None = None) -> JobRecord:
        """Hand a job to a provider, such as local or runpod; None: to the one that it names."""
        body = {"provider": provider} if provider else {}
        return job_of(await (await self._connected()).post(_path(job_id, "submit"), body))

    async def get_status(self, job_id: str) -> JobRecord:
        """Return a job as it is now."""
        return job_of(await (await self._connected()).get(_path(job_id, "status")))

    async def list_jobs(
        self,
        *,
        provider: str | None = None,
        state: JobState | str | None = None,
        limit: int | None = None,
    ) -> list[JobRecord]:
        """Return jobs, the newest first.

        Args:
            provider: only those of this one.
            state: only those in this one.
            limit: how many at most; None: all.
        """
        wire, found, cursor = await self._connected(), list[JobRecord](), None
        while limit is None or len(found) < limit:
            most = PAGE if limit is None else min(PAGE, limit - len(found))
            page = await wire.get(JOBS, provider=provider, state=state, limit=most, cursor=cursor)
            found += map(job_of, page["jobs"])
            cursor = page.get("cursor")
            if not cursor:
                break
        return found

    async def cancel(self, job_id: str) -> JobRecord:
        """Stop a job with a saved checkpoint."""
        return await self._changed(job_id, "cancel", JobState.STOPPED)

    async def pause(self, job_id: str) -> JobRecord:
        """Pause a job with a saved checkpoint; its machine is free meanwhile."""
        return await self._changed(job_id, "pause", JobState.PAUSED)

    async def resume(self, job_id: str) -> JobRecord:
        """Go on with a job that is at rest."""
        return await self._changed(job_id, "resume", JobState.RUNNING)

    async def logs(self, job_id: str, *, after: int = 0) -> list[str]:
        """Return the lines of a job's log.

        Args:
            job_id: whose.
            after: how many lines to pass over; -100: only the last 100.
        """
        wire, found = await self._connected(), list[str]()
        while True:
            page = await wire.get(_path(job_id, "logs"), after=after, limit=LINES)
            found += page["logs"]
            if len(page["logs"]) < LINES:
                return found
            after = page["next"]

    async def errors(self, job_id: str) -> list[dict[str, Any]]:
        """Return what went wrong with a job, and what to do about it."""
        answer = await (await self._connected()).get(_path(job_id, "errors"))
        return list(answer["errors"])

    async def metrics(self, job_id: str, *, after: int = -1) -> list[dict[str, Any]]:
        """Return a job's metrics, an object for each step that is later than `after`."""
        path = f"/api/training/local/{quote(job_id, safe='')}/metrics"
        return list((await (await self._connected()).get(path, after=after))["metrics"])

    async def events(
        self, job_id: str, *, after: str | None = None
    ) -> AsyncGenerator[StreamedEvent, None]:
        """Yield a job's metrics, states and notifications as they come, until it is at rest.

        Args:
            job_id: whose.
            after: the cursor of the last one that is known; "0": from the beginning; None: from now on.
        """
        wire = await self._connected()
        path = _path(job_id, "events")
        async for event in streamed(wire.client, path, after=after, retries=self._retries):
            yield event

    async def wait(self, job_id: str) -> JobRecord:
        """Return a job once it is at rest: completed, failed, stopped or paused."""
        while True:
            job = await self.get_status(job_id)
            if job.state.at_rest:
                return job
            await asyncio.sleep(POLL_SECONDS)

    async def download_artifact(
        self, job_id: str, to: Path | str | None = None
    ) -> DownloadedArtifact:
        """Return a completed job's weights, once their SHA-256 is found to be what it should be.

        Args:
            job_id: whose.
            to: the folder to copy them into; None: they stay where they are.

        Raises:
            IntegrityError: what is here is not what was trained.
        """
        wire = await self._connected()
        answer = await wire.post(_path(job_id, "download-artifact"))
        path = await asyncio.to_thread(_verified, answer, Path(to) if to else None)
        return DownloadedArtifact(
            artifact_id=answer["artifact_id"],
            job_id=answer["job_id"],
            path=path,
            size_bytes=answer["size_bytes"],
            hash_sha256=answer["hash_sha256"],
            created_at=moment_of(answer.get("created_at")),
            metadata=dict(answer.get("metadata") or {}),
        )

    async def _changed(self, job_id: str, verb: str, wished: JobState) -> JobRecord:
        try:
            return job_of(await (await self._connected()).post(_path(job_id, verb)))
        except RequestRejected as error:
            # The first answer was lost: then it is refused because it has been done.
            if not error.again or (job := await self.get_status(job_id)).state is not wished:
                raise
            return job

    async def _connected(self) -> Wire:
        async with self._opening:
            if self._wire is None:
                async with AsyncExitStack() as opening:
                    client = await opening.enter_async_context(self._client())
                    self._wire = Wire(client, retries=self._retries)
                    self._open = opening.pop_all()
            return self._wire

    def _client(self) -> Any:
        if self._url is None:
            from gateway.client.in_process import client_in_process

            return client_in_process(seconds=self._timeout)
        key = secret(KEY, self._key or "")
        return httpx.AsyncClient(
            base_url=self._url,
            timeout=self._timeout,
            headers={"authorization": f"Bearer {key}"} if key else {},
        )


def _path(job_id: str, what: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}/{what}"


def _verified(answer: Mapping[str, Any], to: Path | None) -> Path:
    """Return where the weights are, after reading every byte of them."""
    path, wanted = Path(answer["path"]), answer["hash_sha256"]
    if not path.is_file():
        raise OrchestratorError(
            f"The weights of {answer['job_id']} are on the service's computer, at {path}.",
            "Call download_artifact there, or give the job a store: docs/stores.md.",
        )
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        path = Path(shutil.copy2(path, to / path.name))
    if (found := sha256_of(path)) != wanted:
        raise IntegrityError(f"{path} has the SHA-256 {found}, and {wanted} is expected.")
    return path
