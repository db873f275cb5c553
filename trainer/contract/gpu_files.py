"""The files by which the users of a computer agree on its GPUs: in one folder, for all of them. Stdlib only.

Any user can write there. So nothing is believed but the kernel's locks, and what stands in a file is only
shown. See `trainer.contract.gpu_locks`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.contract.errors import ConfigError
from trainer.contract.files import NOT_JSON

FOLDER_VARIABLE = "TRAINING_ORCHESTRATOR_GPU_LOCKS"
PRETENDED_VARIABLE = "TRAINING_ORCHESTRATOR_PRETENDED_GPUS"
"""Names a JSON file that is read instead of asking the driver, for tests and labs without a GPU."""
COMMON = ("/run/lock", "/tmp")  # noqa: S108 - all users must find the same one
NAME = "training-orchestrator-gpus"
NOTE_BYTES = 4096
SETTLE_SECONDS = 0.2  # for another user to have made a file that all may open
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STICKY = stat.S_ISVTX | 0o777


def folder() -> Path:
    """Return the folder of the locks, the same for all users and homes of this computer.

    Raises:
        ConfigError: it cannot be made, or is not what it has to be.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    # Elsewhere for everybody who works elsewhere, it would lock nobody out.
    if chosen and not chosen.startswith("/"):
        raise ConfigError(
            f"{FOLDER_VARIABLE} = {chosen!r} is not absolute.",
            "Name one folder for all users of the GPUs, such as /srv/gpu-locks.",
        )
    # By what all users see alike, never by what this one may do: two folders would be no lock.
    common = next((one for one in COMMON if _is_for_all(one)), COMMON[-1])
    path = Path(chosen) if chosen else Path(common) / NAME
    try:
        with suppress(FileExistsError):
            path.mkdir(parents=bool(chosen))
            path.chmod(_STICKY)
        facts = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"The folder of the GPUs' locks, {path}, cannot be made: {error.strerror}.",
            f"Let all users write to it, or name another one by {FOLDER_VARIABLE}, the same for all.",
        ) from error
    if not stat.S_ISDIR(facts.st_mode):
        raise ConfigError(
            f"{path} is to be the folder of the GPUs' locks, and is no folder.", "Remove it."
        )
    return path


def file_of(uuid: str) -> Path:
    """Return the file of a GPU.

    Raises:
        ConfigError: that is no UUID.
    """
    # It becomes the name of a file.
    if not IDENTIFIER.fullmatch(uuid):
        raise ConfigError(f"{uuid!r} is not a GPU's UUID.")
    return folder() / uuid


def opened(path: Path, flags: int = os.O_RDWR) -> int:
    """Return a descriptor of a file that any user may open; it is made where need be.

    Raises:
        ConfigError: it cannot be opened.
    """
    # Not to be led elsewhere by a link, nor kept waiting by a pipe, that another user put there.
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    reason, deadline = "", time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            descriptor = _opened_or_made(path, flags)
        except PermissionError as error:  # another user may be making it right now
            reason = str(error.strerror)
            if time.monotonic() < deadline:
                time.sleep(SETTLE_SECONDS / 10)
                continue
        except OSError as error:
            reason = str(error.strerror)
        else:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
            reason = "it is no regular file"
        raise ConfigError(
            f"{path}, the lock of a GPU, cannot be opened: {reason}.",
            "Let its owner remove it while no job has the GPU.",
        )


def _opened_or_made(path: Path, flags: int) -> int:
    while True:
        # First without O_CREAT: of a file of another user in a folder with the sticky bit the
        # kernel refuses that (fs.protected_regular).
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)  # whatever the umask
            return descriptor


def mark_sick(uuid: str, reason: str) -> None:
    """Take a GPU out of use for everybody, until it is healed or the computer starts anew."""
    record = {"reason": reason, "since": datetime.now(UTC).isoformat(), "boot": _boot()}
    with suppress(OSError, ConfigError):  # it is out of use here at least
        write_text(file_of(uuid).with_name(f"{uuid}.sick"), json.dumps(record))


def heal(uuid: str) -> bool:
    """Put a GPU to use again; return whether it was out of use.

    Raises:
        ConfigError: somebody else's note cannot be changed.
    """
    path = file_of(uuid).with_name(f"{uuid}.sick")
    was = bool(sickness(uuid))
    if was:
        try:
            # Emptied and not removed: in a folder with the sticky bit only its owner may remove it.
            write_text(path, "{}")
        except OSError as error:
            raise ConfigError(f"{path} cannot be changed: {error.strerror}.") from error
    return was


def sickness(uuid: str) -> str:
    """Return why a GPU is out of use; empty when it is not."""
    record = read_record(file_of(uuid).with_name(f"{uuid}.sick"))
    # A reset of the computer is what mends most of it.
    return str(record.get("reason") or "") if record.get("boot") == _boot() else ""


def write_text(path: Path, text: str) -> None:
    """Write a small file that any user may change.

    Raises:
        OSError, ConfigError: it cannot be written.
    """
    descriptor = opened(path, os.O_WRONLY)
    try:
        content = text.encode()
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def read_record(path: Path) -> dict[str, Any]:
    """Return the JSON object in a small file; an empty one where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        record = json.loads(os.read(descriptor, NOTE_BYTES))
    except (OSError, *NOT_JSON):
        return {}
    finally:
        os.close(descriptor)
    return record if isinstance(record, dict) else {}


def _boot() -> str:
    with suppress(OSError):
        return _BOOT.read_text(encoding="ascii").strip()
    return ""


def _is_for_all(place: str) -> bool:
    with suppress(OSError):
        return bool(Path(place).stat().st_mode & stat.S_IWOTH)
    return False
