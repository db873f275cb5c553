"""Serve the HTTP interface by uvicorn, on a socket of ours."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from gateway.access.gate import is_unguarded
from gateway.access.settings import AccessSettings
from gateway.database.engine import make_engine
from gateway.database.upgrading import upgrade
from gateway.exits import ApiUnreachable, note, say
from gateway.prefect.full_client import connect
from gateway.reading_settings import read_settings
from gateway.rest.application import create_app
from gateway.rest.settings import ServiceSettings, service_settings
from gateway.streams.prompt_websocket import PromptWebSocket
from trainer.contract.errors import ConfigError

GRACE_SECONDS = 5
"""For requests that are being answered when a signal comes."""


def serve(host: str | None, port: int | None) -> None:
    """Serve until a signal ends it.

    Args:
        host: the address to listen on; None: as the environment says.
        port: likewise.

    Raises:
        ConfigError: it cannot listen there, or others would reach it and nobody has a key.
        ApiUnreachable: Prefect's API does not answer.
        DatabaseUnreachable: its own database does not.
    """
    settings = service_settings(host=host, port=port)
    _say_who_is_let_in(settings)
    run(create_app(settings), settings)


def serve_agent(env_file: Path, host: str | None, port: int | None) -> None:
    """Serve an agent until a signal ends it: its trainings go on, and the next agent takes them up.

    Args:
        env_file: with settings; the environment outweighs it.
        host: the address to listen on; None: as the settings say.
        port: likewise.

    Raises:
        ConfigError: a setting cannot be, or as `serve` has it.
        ApiUnreachable: Prefect's API does not answer.
        DatabaseUnreachable: its own database does not.
    """
    from gateway.agent.settings import agent_service
    from gateway.cli.hosting import deploy

    settings = agent_service(env_file, host=host, port=port)
    _say_who_is_let_in(settings)
    deploy()
    run(create_app(settings, "gateway.agent.holding:agent_link"), settings)


def _say_who_is_let_in(settings: ServiceSettings) -> None:
    if asyncio.run(_refuse_open_door(settings)):
        note(
            "there are no keys: whoever is at this computer is let in, and nobody else. To open it: "
            "trainctl keys create NAME, then --host 0.0.0.0"
        )


def run(app: FastAPI, settings: ServiceSettings) -> None:
    """Listen where the settings say, and serve an application until a signal ends it.

    Raises:
        ConfigError: it cannot listen there.
        ApiUnreachable: Prefect's API does not answer.
    """
    url = connect()  # here too, so that what is wrong with it is one line
    with _listening(settings) as listener:
        name, port = listener.getsockname()[:2]
        app.state.port = port
        where = f"[{name}]" if ":" in name else name
        say(f"serving http://{where}:{port} (its description: /docs), with Prefect at {url}")
        config = uvicorn.Config(
            app,
            # Ours are already in place; access is not logged, because its lines hold what was asked.
            log_config=None,
            access_log=False,
            ws=PromptWebSocket,
            # Two buffers for each of a thousand readers, for messages of 200 bytes.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
            proxy_headers=False,  # which proxies are believed, our own settings say
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
        if not server.started:
            raise ApiUnreachable("The service did not start.", "The lines above say why.")


def _listening(settings: ServiceSettings) -> socket.socket:
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(settings, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(settings, error) from None
    return listener


def _cannot_listen(settings: ServiceSettings, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(
        f"{settings.host}, port {settings.port}: cannot be listened on: {reason}.",
        "Name another port with --port, or an address of this computer with --host.",
    )


async def _refuse_open_door(settings: ServiceSettings) -> bool:
    """Return whether the service asks nobody who they are: it has no key and no user yet.

    Raises:
        ConfigError: it has none, and others would reach it.
        DatabaseUnreachable: its database does not answer.
    """
    engine = make_engine()
    try:
        await upgrade(engine)
        is_open = await is_unguarded(engine, read_settings(AccessSettings))
    finally:
        await engine.dispose()
    if is_open and not settings.is_private:
        raise ConfigError(
            f"host = {settings.host}: other computers would reach it, and nobody has a key yet.",
            "Make one first: trainctl keys create NAME, or trainctl users add NAME.",
        )
    return is_open
