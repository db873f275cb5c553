import getpass

import asyncssh
import pytest

from blocks.machines.ssh import SshMachine
from tests.clouds.agents import Mailbox, SignedMailbox
from tests.clouds.machines import SshdMachine


@pytest.fixture
def key_folder(tmp_path_factory):
    """A folder, not below the test's own, with a private key in it."""
    folder = tmp_path_factory.mktemp("keys")
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(folder / "id_ed25519")
    key.write_public_key(folder / "id_ed25519.pub")
    return folder


@pytest.fixture
def sshd(tmp_path_factory, key_folder):
    public_key = (key_folder / "id_ed25519.pub").read_text()
    with SshdMachine(tmp_path_factory.mktemp("machine"), public_keys=[public_key]) as sshd:
        yield sshd


@pytest.fixture
def reach(key_folder):
    """Return a function that gives a connection to what listens at an address and port."""

    def connection(target, **options):
        return SshMachine(
            target.address,
            port=target.port,
            user=getpass.getuser(),
            private_key=key_folder / "id_ed25519",
            host_key=key_folder / "host_key",
            **options,
        )

    return connection


@pytest.fixture(scope="session")
def mailbox(tmp_path_factory):
    """An agent on this computer, and the folder that is its mailbox."""
    with Mailbox(tmp_path_factory.mktemp("agent")) as mailbox:
        yield mailbox


@pytest.fixture(scope="session")
def signed_mailbox(tmp_path_factory):
    """An agent on this computer without a key, and the bucket in which its mailbox is."""
    with SignedMailbox(tmp_path_factory.mktemp("agent")) as mailbox:
        yield mailbox
