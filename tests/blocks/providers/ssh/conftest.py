"""Hosts one owns: private sshd's."""

import asyncssh
import pytest

from blocks.providers.ssh import asking as ssh_asking
from tests.clouds.machines import Profile, SshdMachine


@pytest.fixture(autouse=True)
def user_home(tmp_path, monkeypatch):
    """Give the user a home folder with an SSH key in it, and little patience."""
    folder = tmp_path / "user"
    (folder / ".ssh").mkdir(parents=True)
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(folder / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(ssh_asking, "PATIENCE_SECONDS", 2.0)
    for name in ("SSH_HOSTS", "SSH_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def host(tmp_path, user_home):
    """Return a function that starts a host; they all end with the test."""
    key = asyncssh.read_private_key(user_home / ".ssh" / "id_ed25519")
    public = key.export_public_key().decode()
    started = []

    def start(*gpus, port=0):
        folder = tmp_path / f"host-{len(started)}"
        machine = SshdMachine(folder, public_keys=[public], profile=Profile(gpus=gpus), port=port)
        started.append(machine)
        machine.start()
        return machine

    yield start
    for machine in started:
        machine.kill()
