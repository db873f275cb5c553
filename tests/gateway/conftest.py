"""`trainctl` with a home and a Prefect server of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.database.engine import SQLITE, make_engine
from gateway.database.upgrading import upgrade
from tests.deployments.postgres import running_postgres
from tests.gateway.commanding import Trainctl, call_here


@pytest.fixture(autouse=True)
def nothing_goes_on(home: Path) -> Iterator[None]:
    """End what a test that failed has left at work: its training would slow all others down."""
    yield
    if not home.exists():
        return
    # By the environment, which all processes of a job inherit: they lead sessions of their own.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TRAINING_ORCHESTRATOR_HOME") == str(home):
                process.kill()


@pytest.fixture
def trainctl(prefect_api: str, capfd: pytest.CaptureFixture[str]) -> Trainctl:
    """Return `trainctl` with the test's server and home, called in this process."""
    return lambda *arguments: call_here(capfd, *arguments)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Yield the address of a PostgreSQL database; tests with it share the group gateway-postgres."""
    with pytest.MonkeyPatch.context() as patch:
        # Or it would end with the first test, as a process of its home.
        patch.delenv("TRAINING_ORCHESTRATOR_HOME", raising=False)
        server = contextlib.ExitStack()
        url = server.enter_context(running_postgres())
    with server:
        yield url


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("gateway-postgres"))]
)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Return the address of an empty database, once of each kind."""
    if request.param == "sqlite":
        return URL.create(SQLITE, database=str(tmp_path / "gateway.db"))
    return make_url(request.getfixturevalue("postgres"))


@pytest.fixture
async def empty_engine(database: URL) -> AsyncIterator[AsyncEngine]:
    """Yield an engine of an empty database, once of each kind."""
    engine = make_engine(database)
    try:
        if database.drivername != SQLITE:
            async with engine.begin() as connection:
                await connection.execute(text("DROP SCHEMA public CASCADE"))
                await connection.execute(text("CREATE SCHEMA public"))
        yield engine
    finally:
        await engine.dispose()


@pytest.fixture
async def engine(empty_engine: AsyncEngine) -> AsyncEngine:
    """Return an engine of a database with all our tables, once of each kind."""
    await upgrade(empty_engine)
    return empty_engine
