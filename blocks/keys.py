"""The key pair by which a hired machine is reached, and the host key it showed first."""

from __future__ import annotations

import os
import shutil

from blocks.home import keys, private_folder


class MachineKeys:
    """The files of one machine, by its name; the private key is readable by its owner alone."""

    def __init__(self, name: str) -> None:
        self._folder = keys() / name
        self.private_key = self._folder / "id_ed25519"
        self.host_key = self._folder / "host_key"
        """The host key pinned at the first connection, as in known_hosts; absent before."""

    def public_key(self) -> str:
        """Return the public half as in authorized_keys, after making the pair if it is missing."""
        import asyncssh  # a third of a second, for those who need it

        private_folder(self._folder)
        if not self.private_key.exists():
            self._make()
        public = asyncssh.read_private_key(self.private_key).export_public_key().decode()
        # The third word of a line in authorized_keys is free text. Ours shows the owner of an
        # account whose key it is.
        return " ".join(public.split()[:2]) + " training-orchestrator"

    def rename(self, name: str) -> None:
        """Give the files to a machine of another name, in one step."""
        self._folder.rename(keys() / name)

    def remove(self) -> None:
        """Forget the machine."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self) -> None:
        import asyncssh

        key = asyncssh.generate_private_key("ssh-ed25519")
        # Written beside its place and renamed: a crash half way must not leave half a key there,
        # which `public_key` would take for a whole one.
        fresh = self.private_key.with_suffix(".new")
        # With its mode from the first byte on: a later chmod would leave a moment in which others
        # can read the key.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key.export_private_key())
        fresh.rename(self.private_key)
