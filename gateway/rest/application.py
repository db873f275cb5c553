"""The application: its routes, in one table, and what they share while it is served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from gateway.rest.problems import Problem, handle_problems, responses
from gateway.rest.settings import ServiceSettings

ROUTERS = (
    *("gateway.rest.documents.health:router", "gateway.rest.documents.local_metrics:router"),
    *("gateway.rest.documents.training_jobs:router", "gateway.rest.documents.agent:router"),
    *("gateway.rest.documents.training_service:router", "gateway.rest.signing_in:router"),
    "gateway.streams.routes:router",
    "gateway.observation.routes:router",
    *("gateway.page.routes:router", "gateway.page.table_routes:router"),
    "gateway.page.new_job.routes:router",
)
"""The routers, in the order in which their paths are tried: MODULE:NAME."""
HELD = (
    *("gateway.rest.database_link:database_link", "gateway.rest.prefect_link:prefect_link"),
    "gateway.rest.access_link:access_link",
    *("gateway.metrics.holding:metrics_link", "gateway.streams.holding:streams_link"),
)
"""What is held while the application is served: functions of it that return an asynchronous context
manager, entered in this order and left in the other."""
MIDDLEWARE: tuple[str, ...] = ("gateway.rest.gatekeeper:keep_gate",)
"""Functions that are given the application before it is served, the innermost first."""
DESCRIPTION = "Fine-tuning jobs: create, submit, watch, control, download."


def create_app(settings: ServiceSettings, *also: str) -> FastAPI:
    """Return the application; nothing is connected before it is served.

    Args:
        settings: how it is hosted.
        also: what is held besides `HELD`, after it.
    """
    app = FastAPI(
        title="Training Orchestrator",
        version=version("training-orchestrator"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        # A body that cannot be read or is too large, a field that is wrong, a failure of ours, Prefect away.
        responses=responses(400, 413, 422, 500, 503),
        # Two paths with and without a slash at the end are two paths: a redirect loses a POST's body.
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.also = also
    handle_problems(app)
    for place in ROUTERS:
        app.include_router(_object(place))
    for place in MIDDLEWARE:
        _object(place)(app)
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Put the body of all errors into the description: no route names it as its model."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        schema = describe()
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        return schema

    app.openapi = described  # type: ignore[method-assign]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as held:
        for place in (*HELD, *app.state.also):
            await held.enter_async_context(_object(place)(app))
        yield


def _object(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
