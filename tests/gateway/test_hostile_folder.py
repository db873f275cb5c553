"""`trainctl` where somebody has files of his own by our modules' names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blocks.keys import MachineKeys
from tests.clouds.machines import SshdMachine
from tests.gateway.commanding import job_file

TRAINCTL = Path(sys.executable).with_name("trainctl")
NAMES = (
    *("trainer", "flows", "blocks", "deployments", "datasets", "torch", "transformers"),
    *("prefect", "json", "typing", "logging", "random", "accelerate", "peft", "numpy"),
)

Here = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.xdist_group("trainctl-run")


def hostile(folder: Path) -> Path:
    """Fill a folder with modules that end whatever imports them."""
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name} of the user')\n")
    return folder


@pytest.fixture
def here(prefect_server: str, home: Path, tmp_path: Path) -> Here:
    """Return `trainctl` as it is called in such a folder."""
    hostile(tmp_path)

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TRAINCTL, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PREFECT_API_URL": prefect_server, **environment},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


@pytest.mark.thorough
def test_a_job_trains_there_with_an_empty_entry_in_the_pythonpath(here: Here, tmp_path: Path):
    (tmp_path / "helper.py").write_text("def seen(): print('callback at work')\n")
    (tmp_path / "mine.py").write_text(
        "from helper import seen\n"
        "from transformers import TrainerCallback\n"
        "class Told(TrainerCallback):\n"
        "    def on_train_begin(self, *a, **k): seen()\n"
    )
    path = job_file(tmp_path, callbacks=["mine.py:Told"])

    done = here("run", path, "--logs", PYTHONPATH=":/opt/nothing")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "callback at work" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("sha256 ")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_job_trains_on_a_machine_whose_user_has_such_files(here: Here, tmp_path: Path):
    keys = MachineKeys("own")
    machine = SshdMachine(tmp_path / "machine", public_keys=[keys.public_key()])
    with machine:
        hostile(machine.home)
        # Where a real user arrives, and with an empty entry in the PYTHONPATH.
        (machine.home / ".bashrc").write_text('cd "$HOME"; export PYTHONPATH=":$PYTHONPATH"\n')
        done = here(
            *("run", job_file(tmp_path), "--provider", "ssh", "--logs"),
            SSH_HOSTS=f"{machine.user}@{machine.address}:{machine.port}",
            SSH_KEY_FILE=str(keys.private_key),
        )

    assert done.returncode == 0, done.stdout + done.stderr
