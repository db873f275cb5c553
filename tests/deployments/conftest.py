"""A Prefect server on PostgreSQL with our deployments, and workers that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from gateway.prefect.server import answers
from tests.deployments.postgres import free_port, running_postgres
from tests.patient import PatientClient
from tests.stand_in import patient
from tests.waiting import PATIENCE, until_now

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SHADOWS = ("json.py", "flows.py", "trainer.py", "prefect.py", "deployments.py")
"""Files in a worker's folder that nothing of ours may import."""


@dataclass
class Site:
    """A server, and a computer that jobs are executed on."""

    folder: Path
    url: str
    home: Path
    process_group: int
    """The server's."""

    def environ(self, user: str = "worker") -> dict[str, str]:
        home = self.folder / user
        home.mkdir(exist_ok=True)
        return {
            **os.environ,
            "HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(home / "prefect"),
            "TRAINING_ORCHESTRATOR_HOME": str(self.home),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }

    @contextmanager
    def as_ours(self) -> Iterator[None]:
        """Let this process speak with the site's server."""
        with temporary_settings({PREFECT_API_URL: self.url}):
            yield

    def trainctl(self, *words: str, user: str = "worker") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "gateway", *words],
            env=self.environ(user),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=280,  # on a full computer; a whole test may take 300
            check=False,
        )

    def ask(self, path: str, body: Any = None) -> Any:
        """Return what the REST API answers to a GET, or with a body to a POST."""
        return self.request("GET" if body is None else "POST", path, body).json()

    def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Return the REST API's answer, which is not a refusal."""
        with PatientClient(self.url) as api:
            answer = api.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer

    def deployment(self, name: str) -> dict[str, Any]:
        return self.ask(f"/deployments/name/{name}")

    def submit(self, *words: str) -> str:
        """Hand a job that takes minutes to the worker; return its id."""
        file = self.folder / "job.json"
        file.write_text(json.dumps(job_values(self.folder)))
        done = self.trainctl("submit", str(file), "--json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["id"]

    def state(self, run_id: str) -> dict[str, Any]:
        return self.ask(f"/flow_runs/{run_id}")["state"]

    def step(self, run_id: str) -> int:
        """Return the step that the job's training has reached on this computer."""
        for status in self.home.glob(f"instances/*{run_id.replace('-', '')}*/status.json"):
            return int(json.loads(status.read_text()).get("step") or 0)
        return 0

    def engine(self, run_id: str) -> psutil.Process | None:
        """Return the process that executes the run's flow."""
        for process in psutil.process_iter():
            try:
                is_engine = "prefect.engine" in process.cmdline()
                if is_engine and process.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                    return process
            except psutil.Error:
                continue
        return None

    def kill(self, run_id: str) -> None:
        """Leave nothing of a job running."""
        if engine := self.engine(run_id):
            engine.kill()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if run_id.replace("-", "") in " ".join(process.cmdline()):
                    process.kill()


class Workers:
    """A `trainctl worker` of the site, in a folder full of traps."""

    def __init__(self, site: Site) -> None:
        self.folder = site.folder / "workers-folder"
        self.folder.mkdir(exist_ok=True)
        for name in SHADOWS:
            (self.folder / name).write_text("raise SystemExit('imported from the working folder')")
        self.log = site.folder / "worker.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "trainctl", "worker"],
                env=site.environ(),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def of_pools(self) -> dict[str, psutil.Process]:
        """Return the worker processes by pool."""
        children = psutil.Process(self.process.pid).children()
        return {child.cmdline()[4]: child for child in children if len(child.cmdline()) > 4}

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


def job_values(folder: Path) -> dict[str, Any]:
    resources = {"gpu_count": 0, "cpu_threads": 1}
    return {"name": "hosted", "resources": resources, "training": patient(folder)}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server on PostgreSQL; whoever deployed to it is gone, with his home."""
    folder = tmp_path_factory.mktemp("site")
    port = free_port()
    with running_postgres() as database, (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "prefect", "server", "start", "--no-ui"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            env={
                **os.environ,
                "PREFECT_HOME": str(folder / "server"),
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
                "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}/api"
            made = Site(folder, url, folder / "orchestrator", server.pid)
            until_now(lambda: answers(made.url))
            _deploy_by_two_at_once(made)
            yield made
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _deploy_by_two_at_once(site: Site) -> None:
    users = ("deployer", "colleague")
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(site.trainctl, "deploy", user=user) for user in users]
    for each in done:
        assert each.result().returncode == 0, each.result().stderr
    for user in users:
        (site.folder / user).rename(site.folder / f"gone-{user}")


@pytest.fixture(scope="module", autouse=True)
def _awake(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the server stand still between the files that use it: it takes a tenth of a processor."""
    group = request.node.get_closest_marker("xdist_group")
    if group is None or group.args != ("hosting",):
        yield
        return
    made: Site = request.getfixturevalue("site")
    os.killpg(made.process_group, signal.SIGCONT)
    yield
    os.killpg(made.process_group, signal.SIGSTOP)


@pytest.fixture(scope="module")
def _started() -> Iterator[list[Workers]]:
    started: list[Workers] = []
    yield started
    for each in started:
        if each.process.poll() is None:
            each.end()


@pytest.fixture
def workers(site: Site, _started: list[Workers]) -> Workers:
    """The site's workers; those of an earlier test when they live."""
    if not _started or _started[-1].process.poll() is not None:
        _started.append(Workers(site))
    return _started[-1]
