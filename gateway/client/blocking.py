"""`TrainingOrchestrator`: the same for programs without `await`, by a loop in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from gateway.client.asynchronous import AsyncTrainingOrchestrator
from gateway.client.models import AskedJob, DownloadedArtifact, JobRecord
from gateway.client.stream import StreamedEvent
from trainer.contract.job_directory import JobState

T = TypeVar("T")


class TrainingOrchestrator:
    """What `AsyncTrainingOrchestrator` does, each method returning when it is done."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
    ) -> None:
        """Prepare it; see `AsyncTrainingOrchestrator`. Close it, or use it in a `with`."""
        self._made = AsyncTrainingOrchestrator(url, key=key, timeout=timeout, retries=retries)
        self._open = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> TrainingOrchestrator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, and end the thread; a later call begins anew."""
        self._open.close()
        self._portal = None

    def create_job(self, config: AskedJob | Mapping[str, Any]) -> JobRecord:
        """Create a job; nothing is trained before `start_training`."""
        return self._done(lambda: self._made.create_job(config))

    def start_training(self, job_id: str, provider: str | None = None) -> JobRecord:
        """Hand a job to a provider, such as local or runpod."""
        return self._done(lambda: self._made.start_training(job_id, provider))

    def get_status(self, job_id: str) -> JobRecord:
        """Return a job as it is now."""
        return self._done(lambda: self._made.get_status(job_id))

    def list_jobs(
        self,
        *,
        provider: str | None = None,
        state: JobState | str | None = None,
        limit: int | None = None,
    ) -> list[JobRecord]:
        """Return jobs, the newest first."""
        return self._done(lambda: self._made.list_jobs(provider=provider, state=state, limit=limit))

    def cancel(self, job_id: str) -> JobRecord:
        """Stop a job with a saved checkpoint."""
        return self._done(lambda: self._made.cancel(job_id))

    def pause(self, job_id: str) -> JobRecord:
        """Pause a job with a saved checkpoint; its machine is free meanwhile."""
        return self._done(lambda: self._made.pause(job_id))

    def resume(self, job_id: str) -> JobRecord:
        """Go on with a job that is at rest."""
        return self._done(lambda: self._made.resume(job_id))

    def logs(self, job_id: str, *, after: int = 0) -> list[str]:
        """Return the lines of a job's log, without the first `after`; -100: the last 100."""
        return self._done(lambda: self._made.logs(job_id, after=after))

    def errors(self, job_id: str) -> list[dict[str, Any]]:
        """Return what went wrong with a job, and what to do about it."""
        return self._done(lambda: self._made.errors(job_id))

    def metrics(self, job_id: str, *, after: int = -1) -> list[dict[str, Any]]:
        """Return a job's metrics, an object for each step that is later than `after`."""
        return self._done(lambda: self._made.metrics(job_id, after=after))

    def wait(self, job_id: str) -> JobRecord:
        """Return a job once it is at rest: completed, failed, stopped or paused."""
        return self._done(lambda: self._made.wait(job_id))

    def download_artifact(self, job_id: str, to: Path | str | None = None) -> DownloadedArtifact:
        """Return a completed job's weights, verified; the result may also be awaited."""
        return self._done(lambda: self._made.download_artifact(job_id, to))

    def events(self, job_id: str, *, after: str | None = None) -> Iterator[StreamedEvent]:
        """Yield a job's metrics, states and notifications as they come, until it is at rest."""
        coming = self._made.events(job_id, after=after)
        try:
            while (event := self._done(lambda: anext(coming, None))) is not None:
                yield event
        finally:
            self._done(coming.aclose)

    def _done(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        done: T = self._running().call(work)
        return done

    def _running(self) -> BlockingPortal:
        if self._portal is None:
            self._portal = self._open.enter_context(start_blocking_portal())
            self._open.callback(self._portal.call, self._made.close)
        return self._portal
