"""What all tests share: a home of their own, one real Prefect server, no GPU unless there is one."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from gateway.prefect.server import SETTINGS, answers
from tests.pretended_gpus import PretendedGpus
from tests.waiting import until_now

if TYPE_CHECKING:
    from tests.clouds.metadata import Metadata
    from tests.clouds.s3 import S3Server
from trainer.contract import redaction
from trainer.supervision import warm

# Before anything imports torch or Prefect: two cores are shared by the workers of xdist, and
# nothing here may reach the network or the developer's own Prefect.
os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_TOKEN_PATH=os.devnull,  # nor use the developer's own login
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    TRAINING_ORCHESTRATOR_ATTEND_SECONDS="0",  # what a test leaves behind stays so
)
for _name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_API_KEY"):
    os.environ.pop(_name, None)

# Xet keeps what it uploads to; the first process of a run makes the place, and removes it.
if "HF_XET_CACHE" not in os.environ:
    os.environ["HF_XET_CACHE"] = tempfile.mkdtemp(prefix="xet-")
    atexit.register(shutil.rmtree, os.environ["HF_XET_CACHE"], ignore_errors=True)

# Until all tests are collected: what they import is no garbage.
gc.disable()
atexit.register(gc.freeze)

# Every process of ours would compile all that it imports again, which takes as long as the import.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell that starts the tests in the background lets them ignore Ctrl-C, and nohup the end of a
# terminal; so would every process that a test interrupts.
for _number, _heard in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(_number, _heard)

_make_context = ssl.create_default_context


@functools.cache
def _context_of(cafile: str, _written: int) -> ssl.SSLContext:
    return _make_context(cafile=cafile)


def _shared_context(*words: Any, **more: Any) -> ssl.SSLContext:
    """Return one context to all who trust the same certificates: to read the world's takes 25 ms."""
    if not words and isinstance(cafile := more.get("cafile"), str) and len(more) == 1:
        with contextlib.suppress(FileNotFoundError):
            return _context_of(cafile, Path(cafile).stat().st_mtime_ns)
    return _make_context(*words, **more)


ssl.create_default_context = _shared_context  # every client of httpx and of Prefect makes one
PAUSES_LOOKED_AT_EVERY = 1  # seconds; by the server, for those whose time is over
SERVER_SECONDS = 240.0
"""For a server of Prefect to start: with nothing else to do it takes six, on a full computer twenty times that."""
EMPTY = "empty.db"
OF_ROWS = Path(__file__).parent / "trainer" / "data"
"""The folder whose tests make tokens of rows, for which torch is imported too."""
TRAIN_WHOLE_JOBS = {"training", "results"}
"""The folders of tests with torch that take the most time."""
RUN = "TESTS_OF_PROCESS"
"""A variable that all processes of one run of the tests have in common."""
os.environ.setdefault(RUN, str(os.getpid()))
_servers: list[subprocess.Popen[bytes]] = []  # one that nobody refers to warns when it is collected


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the tests marked thorough too")


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same examples every time, and new ones in the thorough runs that look for faults.

    So nobody's change is blamed for what another drawing has found.
    """
    # On a computer that is busy with other things an example takes as long as it does.
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("new examples", patient)
    # Few, for they are the same ones at every run.
    settings.register_profile("same examples", patient, derandomize=True, max_examples=25)
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("new examples" if config.getoption("thorough") else "same examples")


def pytest_xdist_auto_num_workers() -> int:
    """Return two workers per core: the tests wait for other processes half the time."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and keep the groups of xdist together."""
    for item in items:
        if item.get_closest_marker("gpu") and not Path("/proc/driver/nvidia").exists():
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))
        if item.get_closest_marker("thorough") and not config.getoption("thorough"):
            item.add_marker(pytest.mark.skip(reason="only with --thorough"))
        if getattr(config.option, "loadgroup", False):
            _name_group(item)


def pytest_collection_finish() -> None:
    """Spare every search for garbage what lives as long as the tests."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """End the processes that have trained for the tests, once the last worker is done."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.info["name"] == warm.NAME and process.environ().get(RUN) == os.environ[RUN]:
                Path(process.cmdline()[-3]).unlink()  # its socket, without which it ends


def _name_group(item: pytest.Item) -> None:
    """Send the tests of an xdist_group to one worker: importing torch costs ten seconds in each.

    pytest-xdist 3.8 means to do this itself, but writes to a field that pytest 9.2 no longer reads.
    """
    group = item.get_closest_marker("xdist_group")
    of_rows = item.path.is_relative_to(OF_ROWS)
    if not (group or of_rows) or not hasattr(item, "_id"):
        return
    name = group.args[0] if group else "torch-data"
    # One worker alone would take longer for all that needs torch than the others for the rest.
    if name == "torch" and item.path.parent.name in TRAIN_WHOLE_JOBS:
        name = "torch-jobs"
    if not item.nodeid.endswith(f"@{name}"):
        item._id = type(item._id).parse(f"{item.nodeid}@{name}")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an orchestrator's home of its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_HOME", str(folder))
    # Nor may a job of this computer's users keep a test from its GPUs, or the other way round.
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_GPU_LOCKS", str(tmp_path / "gpu-locks"))
    return folder


@pytest.fixture
def pretended_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedGpus:
    """Let this computer have GPUs, for this process and those that it starts: at first four."""
    gpus = PretendedGpus(tmp_path / "gpus.json")
    gpus.set_up(4)
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_PRETENDED_GPUS", str(gpus.file))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return gpus


@pytest.fixture(scope="module")
def warm_trainers() -> Iterator[None]:
    """Have whole jobs of a module forked by one warm process, which all workers share.

    For tests of what happens around a training: a new process imports torch for ten seconds.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(warm.SECONDS, "300")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # one process for all
        yield


@pytest.fixture(autouse=True)
def no_secret_is_remembered() -> Iterator[None]:
    """Forget what a test's process has read as a secret: the next test may use such words."""
    yield
    redaction.forget()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the API URL of one real server, shared by all workers of the test run."""
    folder = _servers_folder(tmp_path_factory)
    folder.mkdir(exist_ok=True)
    record = folder / "server.json"
    with _locked(folder):
        server = json.loads(record.read_text()) if record.exists() else _start_server(folder)
        server["users"] += 1
        record.write_text(json.dumps(server))
    try:
        yield server["url"]
    finally:
        with _locked(folder):
            server = json.loads(record.read_text())
            server["users"] -= 1
            record.write_text(json.dumps(server))
            if server["users"] == 0:
                record.unlink()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server["pid"], signal.SIGKILL)


@pytest.fixture(scope="session")
def empty_database(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database of Prefect's with all its tables: making them takes a server 5 s."""
    return _servers_folder(tmp_path_factory) / EMPTY


@pytest.fixture
def prefect_api(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Point this process, and those it starts, at the test server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield prefect_server


def _servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "prefect"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _start_server(folder: Path) -> dict[str, object]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "server.log").open("wb") as log:
        _servers.append(
            process := subprocess.Popen(
                [
                    *(sys.executable, "-m", "prefect", "server", "start"),
                    *("--host", "127.0.0.1", "--port", str(port), "--no-ui"),
                ],
                # All tests share it, so it belongs to the home of none.
                env=SETTINGS
                | {**os.environ, "PREFECT_HOME": str(folder / "home")}
                | {"TRAINING_ORCHESTRATOR_HOME": str(folder)}
                | {
                    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": str(
                        PAUSES_LOOKED_AT_EVERY
                    ),
                    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )
    url = f"http://127.0.0.1:{port}/api"
    _await_health(url, folder)
    with (
        contextlib.closing(sqlite3.connect(folder / "home" / "prefect.db")) as used,
        contextlib.closing(sqlite3.connect(folder / EMPTY)) as empty,
    ):
        used.backup(empty)
    return {"url": url, "pid": process.pid, "users": 0}


def _await_health(url: str, folder: Path) -> None:
    try:
        until_now(lambda: answers(url), SERVER_SECONDS)
    except TimeoutError:
        log = (folder / "server.log").read_text()
        pytest.fail(f"the Prefect server did not start:\n{log[-2000:]}")


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    """The metadata services of the clouds on loopback, for machines that run here."""
    from tests.clouds.metadata import Metadata

    with Metadata() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url + "/")
        monkeypatch.setenv("GCE_METADATA_HOST", server.url.removeprefix("http://"))
        monkeypatch.setenv("AZURE_IMDS_URL", server.url)
        yield server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """S3 on loopback, and the environment set for it."""
    from tests.clouds.s3 import S3Server

    with S3Server() as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        yield server
        assert server.errors == []
