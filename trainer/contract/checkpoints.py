"""Checkpoints: whole or not there. Standard library only.

A checkpoint is written into a hidden folder, every file is synced to disk, its manifest is
written last, and then the folder is renamed to `checkpoint-<step>`. Resuming takes the newest
whose files match its manifest; transformers alone would not notice a torn one, or a flipped bit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trainer.contract.errors import IntegrityError
from trainer.contract.files import fsync_directory
from trainer.contract.manifest import read_manifest, verify, write_manifest

STAGING = ".saving"
SHARDS = "shards"
"""The folder of what is split across processes: see `trainer.engine.sharding`."""
INPUTS = "inputs.json"  # what was learned from: see `trainer.training.inputs`
ACCEPT_VARIABLE = "TRAINING_ORCHESTRATOR_ACCEPT_CHANGES"
"""Lets a job go on from other inputs than its checkpoint's. Its value is new at each acceptance: one
holds for the changes of its day, and no later ones."""
NEEDED = {"trainer_state.json"}
OPTIMIZERS = (
    {"optimizer.pt", "scheduler.pt"},
    {f"{SHARDS}/.metadata", f"{SHARDS}/alike.pt", "scheduler.pt"},  # of FSDP
    {"latest", "scheduler.pt"},  # of DeepSpeed, which names a folder
)
"""Without these transformers resumes silently with a fresh optimizer or scheduler."""
UNWANTED = ("training_args.bin", "README.md")
"""A pickle that resuming does not read, and a model card that only the output needs."""
NO_PART_OF_A_MODEL = (
    *("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", "training_args.bin"),
    *("adapter_model.pt", "trainer_state.json", INPUTS, "checkpoint-*", "global_step*"),
    *("runs", "wandb", SHARDS),
)
"""What training left beside a model."""

_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(checkpoint: Path) -> int:
    """Return N of `checkpoint-N`, or -1 for another name."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def all_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, newest first, valid or not."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if step_of(p) >= 0), key=step_of, reverse=True)


def commit(
    staged: Path, folder: Path, *, trainer: str = "builtin", processes: int = 1, **facts: Any
) -> Path:
    """Move a finished checkpoint from the staging folder to its place; return that place.

    Args:
        staged: the checkpoint.
        folder: where it goes.
        trainer: who wrote it; which files of another trainer are needed, only that trainer knows.
        processes: how many trained; each has its own random numbers in it.
        facts: further entries for the manifest.
    """
    if trainer == "builtin":
        for name in UNWANTED:
            (staged / name).unlink(missing_ok=True)
    # The order is what makes a torn checkpoint impossible: sync the files, write the manifest,
    # rename, and sync the folder, which makes the rename itself durable.
    of_all = {"step": step_of(staged), "trainer": trainer, "processes": processes}
    write_manifest(staged, **of_all, **facts)
    final = folder / staged.name
    # rename(2) does not replace a folder that has anything in it. A crash right here loses only one
    # that was about to be replaced.
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    fsync_directory(folder)
    return final


def check(checkpoint: Path) -> None:
    """Refuse a checkpoint that is torn, corrupted, or lacks what resuming needs.

    Raises:
        IntegrityError: naming the file that is missing or differs.
    """
    check_names(verify(checkpoint), str(checkpoint))


def check_names(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint by its manifest when it lacks what resuming needs.

    Raises:
        IntegrityError: naming the files that are missing.
    """
    if manifest.get("trainer", "builtin") != "builtin":
        return
    names = set(manifest["files"])
    # None of the kinds: complain about the usual one.
    optimizer = OPTIMIZERS[0]
    for known in OPTIMIZERS:
        if known <= names:
            optimizer = known
    if missing := sorted((NEEDED | optimizer | _rng_states(manifest)) - names):
        raise IntegrityError(f"{where} lacks {', '.join(missing)}.")


def processes_of(checkpoint: Path) -> int:
    """Return how many processes trained when a checkpoint was saved."""
    return int(read_manifest(checkpoint).get("processes", 1))


def _rng_states(manifest: Mapping[str, Any]) -> set[str]:
    processes, parts = manifest.get("processes", 1), manifest.get("parts", 1)
    if processes == 1:
        return {"rng_state.pth"}
    each = processes // parts
    first = manifest.get("part", 0) * each
    return {f"rng_state_{rank}.pth" for rank in range(first, first + each)}


def newest_valid(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """Return the newest valid checkpoint, and by name why newer ones were passed over."""
    rejected = {}
    for checkpoint in all_checkpoints(folder):
        try:
            check(checkpoint)
        except IntegrityError as error:
            rejected[checkpoint.name] = error.message
        else:
            return checkpoint, rejected
    return None, rejected


def size_of_newest(folder: Path) -> int | None:
    """Return how many bytes the newest checkpoint takes; None when there is none."""
    for checkpoint in all_checkpoints(folder):
        return sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    return None


def prune(folder: Path, keep: int, protected: Collection[int] = ()) -> list[Path]:
    """Remove all but the newest `keep` checkpoints and those of the `protected` steps.

    The newest valid checkpoint stays in any case. Returns what was removed.
    """
    checkpoints = all_checkpoints(folder)
    candidates = [p for p in checkpoints[keep:] if step_of(p) not in protected]
    if not candidates:
        return []
    # Hashing them costs time, so only where something would be removed. The newest by number may be
    # corrupted, and the one to resume from an older one.
    newest, _ = newest_valid(folder)
    removed = [p for p in candidates if p != newest]
    for checkpoint in removed:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return removed
