"""The host key of a machine: pinned at the first connection, compared at every later one."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import asyncssh
from typing_extensions import override

from blocks.home import private_folder
from trainer.contract.errors import ConfigError, HostKeyChanged
from trainer.contract.files import fsync_directory

KEY_TYPES = (b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"rsa-sha2-512", b"rsa-sha2-256")


class HostKeyPin:
    """A file with the one host key that a machine may show, as a line of known_hosts."""

    def __init__(self, path: Path, host: str) -> None:
        self.path = path
        self._host = host

    def load(self) -> asyncssh.SSHKey | None:
        """Return the pinned key, or None before the first connection.

        Raises:
            ConfigError: the file holds something else.
        """
        try:
            words = self.path.read_text(encoding="utf-8").split()
            # As in known_hosts: the host, the kind of its key, the key.
            return asyncssh.import_public_key(" ".join(words[1:3]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The pinned host key {self.path} cannot be read.",
                "Remove the file if you trust that the host is still yours.",
            ) from error

    def pin(self, key: asyncssh.SSHKey) -> None:
        """Keep the first key that was ever shown; a second one changes nothing."""
        private_folder(self.path.parent)
        fresh = self.path.with_name(f"{self.path.name}.{uuid4().hex}")
        line = f"{self._host} {key.export_public_key().decode().strip()}\n"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(fresh, self.path)  # whole at once, and never over another
            fsync_directory(self.path.parent)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()

    def changed(self, pinned: asyncssh.SSHKey, shown: asyncssh.SSHKey) -> HostKeyChanged:
        """Return the error that names both keys."""
        return HostKeyChanged(
            f"The host key of {self._host} is {shown.get_fingerprint()}, not "
            f"{pinned.get_fingerprint()} as pinned in {self.path}."
        )


class PinningClient(asyncssh.SSHClient):
    """Gives our key away only to a host that proved to own the pinned host key."""

    def __init__(self, pin: HostKeyPin, private_key: asyncssh.SSHKey) -> None:
        self.changed: HostKeyChanged | None = None
        """Why the connection was refused, if that was the reason."""
        self.lost = False
        self._pin = pin
        self._shown: asyncssh.SSHKey | None = None
        self._keys = [private_key]

    @override
    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        self._shown = key
        return self._agrees(key)

    @override
    def public_key_auth_requested(self) -> list[asyncssh.SSHKey] | None:
        # Only now has the host shown that it owns the key, and not merely knows it.
        if self._shown is None:
            return None
        if self._pin.load() is None:
            self._pin.pin(self._shown)
        # asyncssh asks again until there is nothing left to offer, so the one key is given away
        # once.
        keys, self._keys = self._keys, []
        # Compared again: another process may have pinned a different key since the first look.
        return keys if keys and self._agrees(self._shown) else None

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def _agrees(self, shown: asyncssh.SSHKey) -> bool:
        pinned = self._pin.load()
        if pinned is None or pinned.public_data == shown.public_data:
            return True
        self.changed = self._pin.changed(pinned, shown)
        return False


def key_types(pinned: asyncssh.SSHKey | None) -> list[str]:
    """Return the kinds of host keys to ask for: of several that a host has, the pinned one."""
    # A host with several keys shows the kind that is asked for first. With another kind than the
    # pinned one it would look like a stranger.
    first = tuple(pinned.sig_algorithms) if pinned else ()
    return [name.decode() for name in dict.fromkeys(first + KEY_TYPES)]
