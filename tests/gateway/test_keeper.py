"""`trainctl check` says whether reconcile runs: without it, what died stays as it is."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import pytest
from prefect import get_client

from flows.asking import asking
from flows.reconcile import reconcile
from gateway.prefect import attendant, keeper
from tests.patient import PatientClient
from trainer.contract.files import replace_json


def kept(trainctl) -> dict:
    [found] = [row for row in json.loads(trainctl("check", "--json").stdout) if not row["provider"]]
    return found


def test_a_first_run_that_is_still_to_come_is_not_called_late(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
):
    name = f"reconcile-{time.time_ns()}"  # which nobody else on this server has run
    monkeypatch.setattr(keeper, "FLOW", name)
    with PatientClient(prefect_api) as api:

        def post(path: str, **values: Any) -> Any:
            return api.post(path, json=values).raise_for_status().json()

        async def asked() -> dict[str, Any]:
            async with get_client() as client:
                return await keeper.last_reconcile(asking(client))

        def found() -> tuple[bool, str]:
            row = asyncio.run(asked())
            return row["ok"], row["text"]

        post("/work_pools/", name=name, type="process")
        minutely = {"schedule": {"interval": 60.0}, "active": True}
        flow = post("/flows/", name=name)["id"]
        values = {"name": name, "flow_id": flow, "schedules": [minutely], "work_pool_name": name}
        deployment = post("/deployments/", **values)["id"]

        young = found()
        monkeypatch.setattr(keeper, "DEPLOYED_SECONDS", 0.0)
        without_worker = found()
        api.post(f"/work_pools/{name}/workers/heartbeat", json={"name": "w"}).raise_for_status()
        with_new_worker = found()
        monkeypatch.setattr(keeper, "STARTED_SECONDS", 0.0)
        late = found()
        monkeypatch.setenv(attendant.SECONDS, "60")
        attended = found()
        api.delete(f"/deployments/{deployment}")
        api.delete(f"/work_pools/{name}")

    due = "has not run yet; its first run is due within a minute of a worker's start"
    assert young == (True, f"{due}: 'trainctl worker'")
    assert with_new_worker == (True, due)
    assert (without_worker[0], late[0]) == (False, False)
    assert "has never run: nothing ends machines" in without_worker[1]
    assert "Start a worker: 'trainctl worker'. None is online" in without_worker[1]
    assert "died. A worker is online; look for the cause" in late[1]
    assert "died, except for what 'trainctl run' started on this computer. A worker" in attended[1]


# Prefect leaves sockets open where a flow runs in the process of the test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.thorough
def test_check_says_when_reconcile_ran_here_or_elsewhere_or_that_it_never_did(
    trainctl, home, tmp_path, monkeypatch
):
    never = kept(trainctl)
    replace_json(home / "reconciled.json", {"time": time.time() - 1500})
    late = trainctl("check")
    trainctl("reconcile")
    here = kept(trainctl)
    (home / "reconciled.json").unlink()
    with monkeypatch.context() as another:
        another.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "b"))
        asyncio.run(reconcile())
    elsewhere = kept(trainctl)
    gc.collect()  # those sockets, while that is ignored

    assert not never["ok"]
    assert never["text"].startswith("has never run: nothing ends machines that are left over")
    assert "trainctl deploy" in never["text"]
    assert "LATE    reconcile    has not run for 25 min: nothing ends" in late.stdout
    assert late.returncode == 0  # which is about the credentials
    assert here["ok"]
    assert 0 <= here["seconds_ago"] < 60
    assert elsewhere["text"].startswith("last ran ")
