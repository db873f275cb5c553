"""Locking open files, with a clear error where a file system keeps no locks. Stdlib only."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

from trainer.contract.errors import ConfigError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


def flock(descriptor: int, operation: int, path: Path) -> None:
    """Take the lock of an open file, or ask whether it is free.

    Args:
        descriptor: of the file.
        operation: as `fcntl.flock` takes it.
        path: of the file, for the message.

    Raises:
        BlockingIOError: with `LOCK_NB`, somebody else holds it.
        ConfigError: its file system keeps no locks, as NFS without its lock service.
    """
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise ConfigError(
            f"{path.parent}: this file system keeps no locks ({error.strerror}), without which a job "
            "might be trained twice.",
            "Have its lock service started (NFS 3: rpc.statd, and a mount without nolock), or use a "
            "folder elsewhere: TRAINING_ORCHESTRATOR_HOME, and on Slurm SLURM_FOLDER.",
        ) from error
