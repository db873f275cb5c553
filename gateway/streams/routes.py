"""The streams of jobs: a WebSocket, and the same as Server-Sent Events."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, WebSocket
from fastapi.requests import HTTPConnection as Connection
from prefect.client.orchestration import PrefectClient
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from flows.run_folder import RUN_ID
from gateway.access.callers import Caller
from gateway.access.gate import Gate
from gateway.metrics.holding import Metrics
from gateway.metrics.store import MetricsStore
from gateway.operations.finding import NoSuchJob, find_job, known_job
from gateway.rest.guards import Reader
from gateway.rest.prefect_link import ERRORS_OF_CLIENT, Prefect
from gateway.rest.problems import responses
from gateway.streams.hub import Streams
from gateway.streams.messages import StreamCursor, cursor_of
from gateway.streams.sending import POLICY_VIOLATION, EventStream, StreamTerms, serve_websocket
from trainer.contract.errors import ConfigError

UNKNOWN: tuple[type[Exception], ...] = (NoSuchJob, *ERRORS_OF_CLIENT)
MOST_REASON = 120  # bytes of a close frame, about
router = APIRouter(tags=["streams"])
After = Annotated[
    str | None,
    Query(max_length=80, description="The cursor of the last message that the client has; 0: all"),
]
LastEventId = Annotated[str | None, Header(max_length=80)]


@router.websocket("/ws/training/jobs/{job_id}")
async def watch(
    websocket: WebSocket,
    prefect: Prefect,
    metrics: Metrics,
    job_id: str,
    caller: Reader,
    after: str | None = None,
) -> None:
    """Stream a job's metrics, status and notifications."""
    await websocket.accept()
    try:
        cursor = cursor_of(after) if after is not None else None
        job = await _job(websocket, job_id, caller, prefect, metrics)
    except ConfigError as error:
        # A browser's script is told the reason of a close, and nothing of a handshake that fails.
        await websocket.close(POLICY_VIOLATION, error.message[:MOST_REASON])
        return
    terms = _terms(websocket, job_id, caller, prefect)
    await serve_websocket(websocket, _streams(websocket), job, cursor, terms)


@router.get(
    "/api/training/jobs/{job_id}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}}, **responses(400, 401, 403, 404)},
)
async def events(
    connection: Connection,
    prefect: Prefect,
    metrics: Metrics,
    job_id: str,
    caller: Reader,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Stream the same as the WebSocket does, as Server-Sent Events."""
    # A browser sends the header by itself when it comes back, with the address as it was at first.
    text = last_event_id or after
    cursor: StreamCursor | None = cursor_of(text) if text is not None else None
    job = await _job(connection, job_id, caller, prefect, metrics)
    terms = _terms(connection, job_id, caller, prefect)
    return EventStream(_streams(connection), job, cursor, terms)


def _terms(
    connection: Connection, job_id: str, caller: Caller, prefect: PrefectClient
) -> StreamTerms:
    gate: Gate = connection.app.state.gate
    alone = getattr(connection.app.state, "only_caller", None)

    async def is_let_in() -> bool:
        try:
            return alone is not None or await gate.still_lets_in(caller)
        except SQLAlchemyError:
            return True  # it is asked again soon

    async def present_run() -> str | None:
        run = await known_job(prefect, job_id)
        return None if run is None else str(run.id)

    return StreamTerms(is_let_in, present_run)


async def _job(
    connection: Connection,
    job_id: str,
    caller: Caller,
    prefect: PrefectClient,
    metrics: MetricsStore,
) -> str:
    """Return the id by which a job's files and metrics are known.

    Raises:
        NoSuchJob: there is none that the caller may see.
    """
    id = _canonical(job_id)
    # The next of a thousand clients need not ask Prefect what the first was told.
    if caller.project is None and RUN_ID.fullmatch(id) and _streams(connection).has(id):
        return id
    try:
        return str((await find_job(prefect, caller, job_id)).id)
    except UNKNOWN:
        # Imported, deleted in Prefect, or Prefect is away: what was measured is here. Whose it is
        # is not.
        if caller.project is None and id in await metrics.followed([id]):
            return id
        raise


def _canonical(job_id: str) -> str:
    try:
        return str(UUID(job_id))
    except ValueError:
        return job_id


def _streams(connection: Connection) -> Streams:
    streams: Streams = connection.app.state.streams
    return streams
