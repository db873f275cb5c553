"""The settings of the service, for routes that depend on them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from gateway.operations.creating import JobRequest
from gateway.rest.settings import ServiceSettings


def _settings(connection: HTTPConnection) -> ServiceSettings:
    settings: ServiceSettings = connection.app.state.settings
    return settings


Settings = Annotated[ServiceSettings, Depends(_settings)]


def _asked(request: JobRequest, settings: Settings) -> JobRequest:
    return settings.filled(request)


Asked = Annotated[JobRequest, Depends(_asked)]
"""The body that asks for a job, with what this service adds where it says nothing."""
