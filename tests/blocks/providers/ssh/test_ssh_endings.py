"""Hosts one owns: terminate ends what works there, and nothing else."""

import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest

from blocks.home import keys
from blocks.models import InstanceStatus
from blocks.providers import ssh
from blocks.providers.ssh import SshHost
from blocks.providers.ssh.hosts import noted_host
from tests.blocks.providers.ssh.ssh_owned import launched, offers_of, provider_of
from tests.waiting import until
from trainer.contract.errors import (
    CapacityError,
    CredentialsError,
    HostKeyChanged,
    ProviderError,
)
from trainer.contract.job_directory import JobDirectory

ROOT = Path(__file__).parents[4]


async def test_terminate_removes_that_folder_alone_and_is_idempotent(host, tmp_path):
    machine = host()
    provider = provider_of(machine)
    instance, other = await launched(provider), await launched(provider, 2)
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "file").touch()
    (Path(instance.workspace) / "link").symlink_to(tmp_path / "dear")

    await provider.terminate(instance.id)
    await provider.terminate(instance.id)

    assert (await provider.describe(instance.id)).status is InstanceStatus.GONE
    assert await provider.find(instance.mark) is None
    assert await provider.instances() == [other]
    assert (tmp_path / "dear" / "file").exists()
    assert noted_host(str(instance.mark)) is None


# Works in a job directory as a supervisor with a trainer does: both hold its lock, the trainer
# leads a group of its own, and a data loader in that group holds nothing.
WORK = """
import os, signal, subprocess, sys
from trainer.contract.job_directory import JobDirectory
directory, deaf = JobDirectory(sys.argv[1]), sys.argv[2] == "deaf"
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with directory.owned() as lock:
    trainer = os.fork()
    if trainer == 0:
        os.setsid()
        subprocess.Popen(["sleep", "600"], close_fds=True)
        signal.pause()
    directory.update_status(pid=os.getpid(), trainer_pid=trainer)
    signal.pause()
"""


async def work(provider, instance, manner):
    async with provider.machine(instance) as machine:
        command = [sys.executable, "-c", WORK, instance.workspace, manner]
        await machine.start(command, env={"PYTHONPATH": str(ROOT)})
    await until(lambda: JobDirectory(instance.workspace).read_status().trainer_pid)


@pytest.fixture
def innocent():
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("manner", ["willing", "deaf"])
@pytest.mark.thorough
async def test_terminate_ends_whoever_works_there(host, monkeypatch, manner):
    monkeypatch.setattr(ssh, "TERM_SECONDS", 1.0)
    machine = host()
    provider = provider_of(machine)
    instance = await launched(provider)
    await work(provider, instance, manner)
    assert len(machine.processes()) == 3

    await provider.terminate(instance.id)

    await until(lambda: machine.processes() == [])
    assert await provider.instances() == []


async def test_a_process_that_only_has_the_same_number_is_left_alone(host, innocent, monkeypatch):
    monkeypatch.setattr(ssh, "TERM_SECONDS", 1.0)
    monkeypatch.setattr(ssh, "KILL_SECONDS", 1.0)
    provider = provider_of(host())
    instance = await launched(provider)
    directory = JobDirectory(instance.workspace)
    with directory.owned():
        directory.update_status(pid=innocent.pid, trainer_pid=None)
        with pytest.raises(ProviderError, match="does not end"):
            await provider.terminate(instance.id)

    assert innocent.poll() is None
    assert await provider.find(instance.mark) == instance


async def test_another_host_key_is_refused(host, tmp_path):
    first = host()
    provider = provider_of(first)
    instance = await launched(provider)
    first.kill()

    host(port=first.port)  # another machine, with a key of its own

    pinned = keys() / "ssh-hosts" / f"127.0.0.1-{first.port}" / "host_key"
    assert (await provider.describe(instance.id)).status is InstanceStatus.UNKNOWN
    with pytest.raises(HostKeyChanged, match=str(pinned)):
        await provider.find(instance.mark)
    with pytest.raises(CapacityError, match="The host key of"):
        await offers_of(provider)
    pinned.unlink()
    assert len(await offers_of(provider)) == 1


@pytest.mark.thorough
async def test_the_users_known_hosts_has_the_last_word(host, tmp_path, user_home):
    machine = host()
    known = user_home / ".ssh" / "known_hosts"
    right = asyncssh.read_private_key(tmp_path / "host-0" / "host_key")
    wrong = asyncssh.generate_private_key("ssh-ed25519")
    line = f"[127.0.0.1]:{machine.port} {{}}\n"
    known.write_text(line.format(wrong.export_public_key().decode().strip()))
    provider = provider_of(machine)

    with pytest.raises(CapacityError, match="known_hosts"):
        await offers_of(provider)

    known.write_text(line.format(right.export_public_key().decode().strip()))
    assert len(await offers_of(provider)) == 1


def with_passphrase(path):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", path], check=True
    )
    return path


async def test_a_key_that_is_missing_or_locked_is_named(user_home, tmp_path, monkeypatch):
    key = user_home / ".ssh" / "id_ed25519"
    locked = with_passphrase(tmp_path / "locked")
    for given, complaint in [(locked, "assphrase"), (tmp_path / "none", "No such file")]:
        with pytest.raises(CredentialsError, match=f"{given} cannot be used: .*{complaint}"):
            await SshHost(hosts=["h"], private_key=given).check()
    monkeypatch.setenv("SSH_KEY_FILE", str(locked))
    with pytest.raises(CredentialsError, match=str(locked)):
        await SshHost(hosts=["h"]).instances()
    monkeypatch.delenv("SSH_KEY_FILE")
    key.unlink()
    with pytest.raises(CredentialsError, match="There is no private key"):
        await offers_of(SshHost(hosts=["h"]))


async def test_a_key_that_the_host_does_not_know_is_said(host, tmp_path):
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)

    with pytest.raises(CapacityError, match=r"(?i)permission denied|key"):
        await offers_of(provider_of(host(), private_key=stranger))
