"""The streams of jobs: a WebSocket, and the same as Server-Sent Events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, WebSocket
from fastapi.requests import HTTPConnection as Connection
from starlette.responses import Response

from gateway.operations.finding import find_job
from gateway.rest.guards import Reader
from gateway.rest.prefect_link import Prefect
from gateway.rest.problems import responses
from gateway.streams.hub import Streams
from gateway.streams.messages import StreamCursor, cursor_of
from gateway.streams.sending import EventStream, serve_websocket
from trainer.contract.errors import ConfigError

POLICY_VIOLATION = 1008
router = APIRouter(tags=["streams"])
After = Annotated[
    str | None,
    Query(
        max_length=80, description="The cursor of the last message that the client has; 0 for all"
    ),
]


@router.websocket("/ws/training/jobs/{job_id}")
async def watch(
    websocket: WebSocket, prefect: Prefect, job_id: str, caller: Reader, after: str | None = None
) -> None:
    """Stream a job's metrics, status and notifications."""
    await websocket.accept()
    try:
        run = await find_job(prefect, caller, job_id)
        cursor = cursor_of(after) if after is not None else None
    except ConfigError as error:
        await websocket.close(POLICY_VIOLATION, error.message[:120])
        return
    await serve_websocket(websocket, _streams(websocket), str(run.id), cursor)


@router.get(
    "/api/training/jobs/{job_id}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}}, **responses(400, 401, 403, 404)},
)
async def events(
    connection: Connection,
    prefect: Prefect,
    job_id: str,
    caller: Reader,
    after: After = None,
    last_event_id: Annotated[str | None, Header(max_length=80)] = None,
) -> Response:
    """Stream the same as the WebSocket does, as Server-Sent Events."""
    run = await find_job(prefect, caller, job_id)
    # A browser sends the header by itself when it comes back, with the address as it was at first.
    text = last_event_id or after
    cursor: StreamCursor | None = cursor_of(text) if text is not None else None
    return EventStream(_streams(connection), str(run.id), cursor)


def _streams(connection: Connection) -> Streams:
    streams: Streams = connection.app.state.streams
    return streams
