"""Prefect's own client, for commands that change a job; `gateway.prefect.client` serves those that look."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.context import refresh_global_settings_context
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.configuration import setup_logging
from prefect.settings import get_current_settings

from flows.logger import OneLine
from gateway.exits import note
from gateway.prefect.connecting import PrefectApi, api_url, refused, silent
from gateway.prefect.settings import PrefectSettings

T = TypeVar("T")


def call(work: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Run `work` with a client of Prefect's API.

    Raises:
        ApiUnreachable: the API does not answer, or refuses us.
    """
    url = connect()

    async def main() -> T:
        async with get_client() as client:
            return await work(client)

    try:
        return asyncio.run(main())
    # Without the chain of exceptions, which ends in a traceback of httpx and says no more.
    except httpx.TransportError as error:
        raise silent(url, error) from None
    except PrefectHTTPStatusError as error:
        answer = error.response
        raise refused(url, PrefectSettings(), answer.status_code, answer.text) from None


def connect() -> str:
    """Return the URL of the API that is configured, or of our own server, started if need be.

    Raises:
        ConfigError: what is configured is not an address.
        ApiUnreachable: what is configured does not answer, or our server does not come up.
    """
    settings = PrefectSettings()
    url = api_url(settings)
    PrefectApi(url, settings).must_answer()
    # Prefect reads its settings when it is imported, which is before our server was found.
    if get_current_settings().api.url != url:
        os.environ["PREFECT_API_URL"] = url  # for this process and for those it starts
        refresh_global_settings_context()
    _hush_prefect()
    return url


def _hush_prefect() -> None:
    """Show only warnings of Prefect's log, each as one line.

    The command itself says how a run ended, so Prefect's own lines would only repeat it.
    """
    root = logging.getLogger()
    if any(isinstance(handler, OneLine) for handler in root.handlers):
        return  # a service asks for each of its clients
    setup_logging()  # now, because later calls change only levels and leave our handler in place
    # pytest's handler stays: tests look at the records that it catches.
    for handler in [h for h in root.handlers if type(h).__name__ != "LogCaptureHandler"]:
        root.removeHandler(handler)
    root.addHandler(OneLine(note))
