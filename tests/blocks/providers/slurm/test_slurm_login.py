"""Slurm's commands are called as we mean them, and what they say is understood."""

from __future__ import annotations

from blocks.machines.local import LocalMachine
from blocks.providers.api import Unanswered
from blocks.providers.slurm.login import asked, refusal


def test_where_munge_does_not_work_it_is_named():
    error = refusal("sbatch", "error: Munge encode failed: Failed to access /run/munge.socket.2")

    assert isinstance(error, Unanswered)
    assert "munge does not work" in error.message
    assert "systemctl start munge" in str(error.suggestion)


async def test_what_a_person_set_for_slurms_own_commands_does_not_steer_ours(monkeypatch):
    for name in ("SLURM_CLUSTERS", "SBATCH_RESERVATION", "SLURM_CONF"):
        monkeypatch.setenv(name, "/of/mine")

    said = await asked(LocalMachine(), "env")

    assert [line for line in said.splitlines() if "/of/mine" in line] == ["SLURM_CONF=/of/mine"]


async def test_what_a_login_shell_prints_is_no_answer():
    class Greeting(LocalMachine):
        async def run(self, command, **options):
            greeted = ["sh", "-c", 'echo Welcome; exec "$@"', "sh", *command]
            return await super().run(greeted, **options)

    assert await asked(Greeting(), "cat", text="5\n@answer\n") == "5\n@answer\n"
