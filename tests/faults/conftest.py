"""The fault suite: `scene`, the proof at the end of every test, and the table."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun

from tests.clouds.__main__ import CLOUDS
from tests.clouds.cloud import Cloud
from tests.faults import disk
from tests.faults.canaries import TOKENS, Canaries
from tests.faults.curves import Curves
from tests.faults.hunt import Hunt
from tests.faults.proof import Figures, prove
from tests.faults.scene import Scene
from tests.faults.table import FIGURES, PROPERTY, rows_of, written
from trainer.contract.job_directory import JobState

Survived = Callable[..., Awaitable[None]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if marker := item.get_closest_marker("fault"):
            item.user_properties.append((PROPERTY, list(marker.args)))
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(600))  # many wait for others' deadlines


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Refuse a test that ends without having proved anything."""
    result = yield
    figures = dict(pyfuncitem.user_properties).get(FIGURES)
    assert figures is None or figures["end"] != Figures.end, "call survived(run)"
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for outcome in ("passed", "failed", "error", "skipped")
        for report in terminalreporter.stats.get(outcome, [])
    ]
    if rows := rows_of(reports):
        terminalreporter.section("faults")
        for line in written(rows):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that the workers of the test run share; Prefect's database is in it."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def curves(shared: Path) -> Curves:
    return Curves(shared / "curves")


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    prefect_api: str,
    curves: Curves,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Scene]:
    """Give a running cloud and what belongs to it: of RunPod, or as `request.param` says.

    At the end no secret may stand in a log, an artifact, a job directory, Prefect's database or a
    process's arguments.
    """
    provider = getattr(request, "param", "runpod")
    cloud: Cloud | None = None
    if provider in CLOUDS:
        module, _, name = CLOUDS[provider].partition(":")
        cloud = getattr(import_module(module), name)(tmp_path / "cloud")
        cloud.start()
        for variable, value in cloud.environ().items():
            monkeypatch.setenv(variable, value)
    for variable, token in TOKENS.items():
        monkeypatch.setenv(variable, token)
    canaries = Canaries([cloud] if cloud else [])
    watching = asyncio.create_task(canaries.watch())
    found = Scene(cloud.name if cloud else provider, cloud, tmp_path, curves)
    yield found
    watching.cancel()
    await found.close()
    assert canaries.told == set()
    assert canaries.leaks(tmp_path, shared / "prefect") == []


@pytest.fixture
def survived(scene: Scene, request: pytest.FixtureRequest) -> Survived:
    """Prove at the end of a test how a run ended, and that nothing was lost or left.

    `await survived(run)`, or with the state and a regular expression for its message.
    """
    figures = Figures()
    request.node.user_properties.append((FIGURES, vars(figures)))  # what is found later shows too

    async def proof(run: FlowRun, expected: JobState = JobState.COMPLETED, error: str = "") -> None:
        await scene.ended(run)
        await prove(scene, run, figures, expected, error)

    return proof


@pytest.fixture
def hunt(scene: Scene, request: pytest.FixtureRequest) -> Iterator[Hunt]:
    """Give a hunt for a machine; a test ends it by `await hunt.over()`."""
    figures = Figures()
    request.node.user_properties.append((FIGURES, vars(figures)))
    found = Hunt(scene, figures)
    yield found
    assert found.is_over, "nothing was proved: call hunt.over()"


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], None]]:
    """Mount a small disk at a folder; its size can be changed by mounting it again."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a small disk")
    mounted: set[Path] = set()

    def mount(folder: Path, size: str) -> None:
        disk.mount(folder, size, again=folder in mounted)
        mounted.add(folder)

    yield mount
    for folder in mounted:
        disk.unmount(folder)
