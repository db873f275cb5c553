"""Fetch the whole output of a finished job, and refuse it when loading it could run code."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from blocks.workplaces.base import Workplace
from flows.logger import logger
from flows.streaming.fetching import fetch_folder
from trainer.contract.checkpoints import all_checkpoints
from trainer.contract.errors import HomeDiskFull, IntegrityError
from trainer.contract.manifest import NOT_KEPT, WEIGHTS, refuse_pickles, verify

LENGTH_BYTES = 8  # of the number that a safetensors file begins with: the size of its header


async def fetch_output(
    workplace: Workplace, folder: Path, *, checkpoints: Path | None = None
) -> int:
    """Bring a job's output into a folder, verify it, and return the bytes fetched.

    Args:
        workplace: where it is.
        folder: where it goes.
        checkpoints: where those of the run are at home; the last one may hold the same weights.

    Raises:
        IntegrityError: it is not what its manifest says, or it is refused; see `verify_output`.
        HomeDiskFull: it does not fit here.
        ConnectionLost: the machine cannot be reached; what arrived is kept.
    """
    try:
        size = await fetch_folder(
            workplace,
            "output",
            folder,
            refuse=refuse_pickles,
            at_home=all_checkpoints(checkpoints) if checkpoints else (),
        )
    except FileNotFoundError as error:
        raise IntegrityError(f"{error} is missing on the machine.", NOT_KEPT) from error
    await asyncio.to_thread(verify_output, folder)
    return size


async def fetch_reports(workplace: Workplace, folder: Path) -> None:
    """Fetch what TensorBoard and the like wrote; the result does not depend on it.

    Raises:
        ConnectionLost: the machine cannot be reached; what arrived is kept.
    """
    try:
        await fetch_folder(workplace, "reports", folder)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)  # the job reports nowhere
    except (HomeDiskFull, IntegrityError) as error:
        logger().warning("the reports stay behind: %s", error)


def verify_output(folder: Path) -> dict[str, Any]:
    """Read every file of an output, compare it, and return the manifest.

    Raises:
        IntegrityError: naming the first file that differs, or that an output must not hold.
    """
    manifest = verify(folder)
    # Unpickling runs code: a rented machine could run its own on every computer that loads the
    # model. By name first, and then by content: a pickle may be called model.safetensors.
    refuse_pickles(manifest["files"])
    for name in manifest["files"]:
        if name.endswith(WEIGHTS) and not _is_safetensors(folder / name):
            raise IntegrityError(f"{folder / name} is not a safetensors file.", NOT_KEPT)
    return manifest


def put_aside(folder: Path, partial: Path) -> None:
    """Move away what must not pass for an artifact; its good files need not be fetched again."""
    shutil.rmtree(partial, ignore_errors=True)
    folder.rename(partial)


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: the header's size, then a JSON object."""
    # https://github.com/huggingface/safetensors#format: an unsigned little-endian 64-bit number.
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        return stream.read(1) == b"{" and LENGTH_BYTES + length <= path.stat().st_size
