"""The settings of the service, for routes that depend on them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from gateway.rest.settings import ServiceSettings


def _settings(connection: HTTPConnection) -> ServiceSettings:
    settings: ServiceSettings = connection.app.state.settings
    return settings


Settings = Annotated[ServiceSettings, Depends(_settings)]
