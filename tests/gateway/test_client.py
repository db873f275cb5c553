"""Prefect's API without Prefect: jobs are found, and what goes wrong has its remedy."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from os.path import commonprefix
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import StateType

from flows.run_folder import RunFolder
from flows.shown import STATE_OF_TYPE, job_state, short_id
from gateway import jobs
from gateway.exits import ApiUnreachable
from gateway.prefect.client import LightClient
from gateway.prefect.connecting import PrefectApi, api_url, refused
from gateway.prefect.server import answers
from gateway.prefect.settings import PrefectSettings
from tests.gateway.commanding import call_trainctl
from tests.patient import PatientClient
from tests.waiting import until_now
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.job_directory import JobState

of_guarded = pytest.mark.xdist_group("guarded")
NAME_AND_PASSWORD = "ada:correct horse"  # noqa: S105 - of a server of this test


@pytest.fixture
def client(prefect_server: str) -> LightClient:
    """Return a client of the shared server."""
    return LightClient(PrefectApi(prefect_server, PrefectSettings()))


@pytest.fixture
def scheduled(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[UUID]]:
    """Yield the ids of three jobs that Prefect's scheduler made together, for one deployment.

    They are the only ones: a flow of their own is taken for the flow of jobs.
    """
    with PatientClient(prefect_server) as api:

        def post(path: str, **values: object) -> Any:
            return api.post(path, json=values).raise_for_status().json()

        name = f"hourly-{time.time_ns()}"
        monkeypatch.setattr(jobs, "FLOW", name)
        flow = post("/flows/", name=name)["id"]
        hourly = {"schedule": {"interval": 3600.0}, "active": True}
        target = post("/deployments/", name=name, flow_id=flow, schedules=[hourly])["id"]
        post(f"/deployments/{target}/schedule", min_runs=3, max_runs=3)
        runs = post("/flow_runs/filter", deployments={"id": {"any_": [target]}}, limit=3)
        yield [UUID(run["id"]) for run in runs]
        api.delete(f"/deployments/{target}")


def shared_beginning(run_ids: list[UUID]) -> str:
    """Return what all these ids begin with; ids made in two milliseconds share less than in one."""
    return commonprefix([str(run_id) for run_id in run_ids])  # noqa: RUF071 - by characters


def test_jobs_scheduled_together_have_short_ids_and_folders_of_their_own(scheduled: list[UUID]):
    assert len(shared_beginning(scheduled)) >= 4  # all that they share is the time
    assert len({short_id(run_id) for run_id in scheduled}) == 3
    assert len({RunFolder(run_id).artifact("nightly", None) for run_id in scheduled}) == 3


def test_a_job_is_found_by_id_beginning_end_and_name(client: LightClient, scheduled: list[UUID]):
    first, second, third = scheduled

    assert jobs.find(client, str(first)).id == first
    assert jobs.find(client, second.hex.upper()).id == second
    assert jobs.find(client, str(third)[:24]).id == third
    assert jobs.find(client, short_id(third)).id == third
    assert jobs.find(client, short_id(third)[-4:].upper()).id == third
    assert jobs.find(client, client.read_flow_run(second).name).id == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "an id needs at least 4 characters"),
        ("", "There is no job ''"),
        ("../../etc", "There is no job"),
        ("zzzz", "There is no job 'zzzz'"),
        ("00000000-0000-0000-0000-000000000000", "There is no job 00000000"),
        ("no such job", "There is no job 'no such job'"),
        ("fffffffffffffffffff", "There is no job"),
    ],
)
def test_what_is_no_job_is_said(text: str, message: str, client: LightClient):
    with pytest.raises(ConfigError, match=message):
        jobs.find(client, text)


def test_a_part_of_several_ids_names_them(client: LightClient, scheduled: list[UUID]):
    with pytest.raises(ConfigError, match=r"begins or ends the ids of 3 jobs") as caught:
        jobs.find(client, shared_beginning(scheduled))

    assert short_id(scheduled[-1]) in str(caught.value)


def test_jobs_of_several_pages_are_all_looked_at(
    client: LightClient, scheduled: list[UUID], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "PAGE", 1)

    missing = set(scheduled)
    for run in jobs.runs(client):
        missing.discard(run.id)
        if not missing:  # the other tests' jobs on this server need not be read
            break
    assert not missing


def test_the_list_filters_by_state_and_provider(client: LightClient, scheduled: list[UUID]):
    waiting = jobs.newest(client, 1000, JobState.CREATED, "local")

    assert {run.id for run in waiting} >= set(scheduled)
    assert {job_state(run) for run in waiting} == {JobState.CREATED}
    assert jobs.newest(client, 1000, None, "nowhere") == []
    assert len(jobs.newest(client, 2, None, None)) == 2


def test_every_state_of_prefect_is_one_of_a_job():
    assert {str(StateType(name).value) for name in STATE_OF_TYPE} == {t.value for t in StateType}


@pytest.fixture(scope="module")
def guarded(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a real server that wants a password, and tokens against forged requests."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copy(empty_database, folder / "prefect.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    guard = {
        "PREFECT_SERVER_API_AUTH_STRING": NAME_AND_PASSWORD,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_HOME": str(folder),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "prefect", "server", "start"),
                *("--host", "127.0.0.1", "--port", str(port), "--no-ui"),
            ],
            env={**os.environ, **guard},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}/api"
    until_now(lambda: answers(url))
    yield url
    process.kill()
    process.wait()


@of_guarded
@pytest.mark.thorough
def test_a_guarded_server_answers_who_knows_the_password(
    guarded: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", NAME_AND_PASSWORD)

    assert list(jobs.runs(LightClient(PrefectApi(guarded, PrefectSettings())))) == []


@of_guarded
@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({}, "Set PREFECT_API_AUTH_STRING to the name:password"),
        ({"PREFECT_API_KEY": "pnu_1"}, "PREFECT_API_KEY is for Prefect Cloud"),
        (
            {"PREFECT_API_AUTH_STRING": "ada:wrong"},
            "PREFECT_SERVER_API_AUTH_STRING, and is another",
        ),
    ],
)
def test_a_refusal_names_the_variable_that_is_wanted(
    guarded: str, variables: dict[str, str], remedy: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = LightClient(PrefectApi(guarded, PrefectSettings()))

    with pytest.raises(ApiUnreachable, match=r"refuses us \(HTTP 401\)") as caught:
        jobs.find(client, "x")

    assert remedy in str(caught.value)


@of_guarded
@pytest.mark.thorough
def test_the_status_of_the_server_says_a_refusal_a_wrong_address_and_health(
    guarded: str, monkeypatch: pytest.MonkeyPatch
):
    root = guarded.removesuffix("/api")

    refusal = call_trainctl("server", "status", PREFECT_API_URL=guarded)
    as_json = call_trainctl("server", "status", "--json", PREFECT_API_URL=guarded)
    wrong = call_trainctl("server", "status", PREFECT_API_URL=root)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", NAME_AND_PASSWORD)
    healthy = call_trainctl("server", "status", PREFECT_API_URL=guarded)
    healthy_json = call_trainctl("server", "status", "--json", PREFECT_API_URL=guarded)

    assert refusal.returncode == wrong.returncode == healthy.returncode == 0
    assert refusal.stdout.splitlines()[1].startswith(
        f"health: Prefect's API at {guarded} refuses us (HTTP 401). Set PREFECT_API_AUTH_STRING"
    )
    assert f"health: What answers at {root} is not Prefect's API. " in wrong.stdout
    assert healthy.stdout.splitlines()[1] == "health: healthy"
    assert (as_json.returncode, healthy_json.returncode) == (5, 0)
    facts = json.loads(as_json.stdout), json.loads(healthy_json.stdout)
    assert [each["healthy"] for each in facts] == [False, True]
    assert "HTTP 401" in facts[0]["problem"]


CLOUD = "https://api.prefect.cloud/api/accounts/1/workspaces/2"


@pytest.mark.parametrize(
    ("url", "variables", "status", "remedy"),
    [
        (CLOUD, {}, 401, "The key in PREFECT_API_KEY is not set"),
        (CLOUD, {"PREFECT_API_KEY": "pnu"}, 401, "The key in PREFECT_API_KEY no longer holds"),
        (CLOUD, {"PREFECT_API_KEY": "pnu"}, 403, "the workspace in PREFECT_API_URL"),
        (CLOUD, {"PREFECT_API_AUTH_STRING": "a:b"}, 401, "unset PREFECT_API_AUTH_STRING"),
        ("http://h:4200/api", {}, 403, "PREFECT_CLIENT_CUSTOM_HEADERS"),
        ("http://h:4200", {}, 404, "ends in /api: http://h:4200/api"),
        ("http://h:4200/api", {}, 500, "Look into the server's log"),
    ],
)
def test_what_is_advised_fits_who_answers(
    url: str, variables: dict[str, str], status: int, remedy: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert remedy in str(refused(url, PrefectSettings(), status, "no"))


class Page(http.server.BaseHTTPRequestHandler):
    """A site for people: whatever is asked, it answers with a page."""

    def do_GET(self) -> None:
        """Answer with a page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def problem(url: str, monkeypatch: pytest.MonkeyPatch) -> OrchestratorError:
    monkeypatch.setenv("PREFECT_API_URL", url)
    settings = PrefectSettings()
    with pytest.raises(OrchestratorError) as caught:
        jobs.find(LightClient(PrefectApi(api_url(settings), settings)), "x")
    return caught.value


def test_an_address_that_leads_elsewhere_is_said(page: str, monkeypatch: pytest.MonkeyPatch):
    assert f"it ends in /api: {page}/api." in str(problem(page, monkeypatch))
    assert "is not Prefect's API" in str(problem(f"{page}/api", monkeypatch))
    assert f"set PREFECT_API_URL to http{page[4:]}." in str(
        problem(f"https{page[4:]}", monkeypatch)
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:4200/api", "begins with neither http:// nor https://"),
        ("ftp://h/api", "begins with neither http:// nor https://"),
        ("http://127.0.0.1:9/api", "does not answer: Connection refused"),
        ("http://127.0.0.1:port/api", "does not answer"),
        ("http://[::1/api", "does not answer"),
        ("http://nowhere.invalid/api", "does not answer"),
    ],
)
def test_an_address_that_cannot_be_used_is_said(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    assert message in str(problem(url, monkeypatch))


def test_what_was_deleted_meanwhile_is_said_and_is_no_wrong_address(client: LightClient):
    gone = uuid4()

    assert client.deployment("train/none") is None
    with pytest.raises(ConfigError, match=rf"There is no job {gone}"):
        client.read_flow_run(gone)
    with pytest.raises(ConfigError, match=r"answers: .*not found"):
        client.run_of_deployment(gone, name="x")
    with pytest.raises(ConfigError, match=rf"answers: .*{gone}"):
        client.set_state(gone, "CANCELLING")


def test_a_slash_at_the_end_does_no_harm(prefect_server: str, monkeypatch: pytest.MonkeyPatch):
    assert "There is no job 'x'" in str(problem(f"{prefect_server}/", monkeypatch))


def test_a_file_of_certificates_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(tmp_path / "none.pem"))

    assert "none.pem': No such file" in str(problem("https://127.0.0.1:9/api", monkeypatch))
