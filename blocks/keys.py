"""The key pair by which a hired machine is reached, and the host key it showed first."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Self
from urllib.parse import quote

from blocks.home import keys, private_folder
from blocks.marks import Mark


class MachineKeys:
    """The files of one machine; the private key is readable by its owner alone.

    They are filed by the id that the provider gives the machine, which never changes, and until
    there is one by the mark that it is ordered under. So a machine that comes to bear another mark
    keeps its files where they are.
    """

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

    @classmethod
    def ordered(cls, mark: Mark) -> Self:
        """Return the files of a machine that is about to be ordered under a mark."""
        return cls(str(mark))

    @classmethod
    def of(cls, provider: str, id: str, mark: Mark | None) -> Self:
        """Return the files of a machine, filed by its id from now on.

        Args:
            provider: its provider's name or label.
            id: the provider's own name for it.
            mark: what it bears, by which its files were kept before its id was known.
        """
        found = cls(f"{provider.partition('/')[0]}-{quote(id, safe='')}")
        if mark is not None and not found._folder.exists():
            # Also here, and not only after the order: a process may have died in between. Of two
            # that come at once, one moves the files and the other finds them moved.
            with suppress(FileNotFoundError):
                cls.ordered(mark)._folder.rename(found._folder)
        return found

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
