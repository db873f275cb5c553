"""`trainctl check` says whether reconcile runs: without it, what died stays as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from trainer.contract.files import replace_json

RECONCILE = "import asyncio; from flows.reconcile import reconcile; asyncio.run(reconcile())"


def kept(trainctl) -> dict:
    [found] = [row for row in json.loads(trainctl("check", "--json").stdout) if not row["provider"]]
    return found


def test_check_says_when_reconcile_ran_here_or_elsewhere_or_that_it_never_did(
    trainctl, prefect_server, home, tmp_path
):
    never = kept(trainctl)
    replace_json(home / "reconciled.json", {"time": time.time() - 1500})
    late = trainctl("check")
    trainctl("reconcile")
    here = kept(trainctl)
    (home / "reconciled.json").unlink()
    another = {"TRAINING_ORCHESTRATOR_HOME": str(tmp_path / "b"), "PREFECT_API_URL": prefect_server}
    subprocess.run([sys.executable, "-c", RECONCILE], env={**os.environ, **another}, check=True)
    elsewhere = kept(trainctl)

    assert not never["ok"]
    assert never["text"].startswith("has never run: nothing ends machines that are left over")
    assert "trainctl deploy" in never["text"]
    assert "LATE    reconcile    has not run for 25 min: nothing ends" in late.stdout
    assert late.returncode == 0  # which is about the credentials
    assert here["ok"]
    assert 0 <= here["seconds_ago"] < 60
    assert elsewhere["text"].startswith("last ran ")
