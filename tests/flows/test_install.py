"""Setup lines run once, with the trainer's own Python, and tokens stay out of sight."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from blocks.machines.local import LocalMachine
from blocks.workplaces.machine import MachineWorkplace
from flows.setup.secrets import HUB, SECRETS, have_tokens, kept_elsewhere, secrets
from flows.tasks.install import SETUP_DONE, run_setup
from tests.flows.sshd import over_ssh
from trainer.contract.errors import DependencyError
from trainer.contract.redaction import redacted


def here(folder):
    return MachineWorkplace(LocalMachine(), str(folder))


async def test_setup_runs_once_and_its_python_is_the_trainers(tmp_path):
    lines = ["command -v python >> which", "echo done"]
    log = []

    for _ in range(2):
        await run_setup(here(tmp_path), lines, sys.executable, log.append)

    assert (tmp_path / "which").read_text() == f"{Path(sys.executable).parent}/python\n"
    assert log == ["done"]


async def test_setup_that_failed_runs_again(tmp_path):
    for _ in range(2):
        with pytest.raises(DependencyError, match="false"):
            await run_setup(here(tmp_path), ["echo x >> ran", "false"], sys.executable, print)

    assert (tmp_path / "ran").read_text() == "x\nx\n"
    assert not (tmp_path / SETUP_DONE).exists()


def test_only_the_known_tokens_that_are_set_are_passed_on(monkeypatch):
    for name in ("HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("RUNPOD_API_KEY", "not for the machine")

    assert secrets() == {"HF_TOKEN": "hf_canary"}


def test_a_judges_key_is_passed_on_where_the_job_names_it(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "judge_canary")

    assert "JUDGE_KEY" not in secrets()
    assert secrets(["JUDGE_KEY", "JUDGE_OTHER"]).items() >= {"JUDGE_KEY": "judge_canary"}.items()
    assert "JUDGE_OTHER" not in secrets(["JUDGE_OTHER"])


def test_tokens_may_be_kept_in_files_and_the_libraries_here_find_them(tmp_path, monkeypatch):
    for name in (HUB, *SECRETS):
        monkeypatch.delenv(name, raising=False)
    for name in (HUB, "WANDB_API_KEY"):
        (tmp_path / name).write_text(f"{name}-canary\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / HUB))
    monkeypatch.setenv("WANDB_API_KEY", f"secret://file{tmp_path}/WANDB_API_KEY")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "in-the-environment")
    kept = {HUB: "HF_TOKEN-canary", "WANDB_API_KEY": "WANDB_API_KEY-canary"}

    assert secrets() == kept | {"MLFLOW_TRACKING_TOKEN": "in-the-environment"}
    assert kept_elsewhere() == kept  # a trainer here has the others already
    with monkeypatch.context() as patched:
        patched.setattr("os.environ", dict(os.environ))
        have_tokens()
        assert os.environ.items() >= kept.items()
    assert redacted("HF_TOKEN-canary in-the-environment") == "*** ***"


def test_a_stored_login_to_the_hub_is_passed_on_where_the_environment_has_no_token(
    tmp_path, monkeypatch
):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("hf_stored\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))

    stored = secrets()
    monkeypatch.setenv("HF_TOKEN", "hf_set")

    assert stored.items() >= {"HF_TOKEN": "hf_stored"}.items()
    assert secrets().items() >= {"HF_TOKEN": "hf_set"}.items()


def test_a_stored_login_stays_here_when_the_hub_is_told_to_use_none_by_itself(
    monkeypatch, tmp_path
):
    (tmp_path / "token").write_text("hf_stored")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    assert "HF_TOKEN" not in secrets()

    monkeypatch.setenv("HF_TOKEN", "hf_own")
    assert secrets().items() >= {"HF_TOKEN": "hf_own"}.items()


async def test_over_ssh_setup_has_the_token_and_no_command_line_shows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    lines = ["printenv HF_TOKEN > token", "cat /proc/[0-9]*/cmdline > commands 2>/dev/null || :"]

    async with over_ssh(tmp_path) as (machine, base):
        result = await machine.run(["mkdir", "-p", base])
        assert result.exit_code == 0
        await run_setup(MachineWorkplace(machine, base), lines, sys.executable, print)

        token = await machine.read(f"{base}/token")
        commands = await machine.read(f"{base}/commands")

    assert token == b"hf_canary\n"
    assert commands
    assert b"bash" in commands
    assert b"hf_canary" not in commands
