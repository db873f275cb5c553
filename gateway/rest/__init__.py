"""The HTTP interface: `trainctl serve`, or `uvicorn gateway.rest:app`.

The application is made when it is first asked for: FastAPI takes a while to import, and most commands
do without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

    app: FastAPI


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gateway.rest.application import create_app
    from gateway.rest.settings import service_settings

    globals()["app"] = made = create_app(service_settings())
    return made
