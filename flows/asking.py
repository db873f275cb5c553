"""Prefect's REST API in plain JSON, for those who read many runs, or must not import Prefect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

Json = dict[str, Any]
AskApi = Callable[[str, Json | None], Awaitable[Any]]
"""Ask the API for a path: GET without a body, POST with one; returns the JSON of the answer, and None of
what is not there."""


def asking(client: PrefectClient) -> AskApi:
    """Return a function that asks the API of this client."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    async def ask(path: str, body: Json | None) -> Any:
        method: Literal["GET", "POST"] = "GET" if body is None else "POST"
        try:
            answer = await client.request(method, cast("Any", path), json=body)
        except PrefectHTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:
                return None
            raise
        return answer.json()

    return ask
