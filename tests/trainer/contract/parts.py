"""A checkpoint in two parts, of two processes each, as trainers leave it."""

from __future__ import annotations

from pathlib import Path

from trainer.contract.checkpoints import STAGING, commit


def parts_of(folder: Path, *, step: int = 5, save: str = "one") -> list[Path]:
    """Write the parts into the folders `0` and `1`, as the job directories of two machines."""
    return [_part(folder / str(part), part, step, save) for part in (0, 1)]


def _part(folder: Path, part: int, step: int, save: str) -> Path:
    staged = folder / "checkpoints" / STAGING / f"checkpoint-{step}"
    (staged / "shards").mkdir(parents=True)
    for name in ("scheduler.pt", "trainer_state.json", "shards/.metadata", "shards/alike.pt"):
        (staged / name).write_text(f"{name} of {save} {step}")
    for rank in (2 * part, 2 * part + 1):
        (staged / f"shards/__{rank}_0.distcp").write_text(f"{rank} of {save} {step}")
        (staged / f"rng_state_{rank}.pth").write_text(f"{rank} of {save} {step}")
    return commit(staged, folder / "checkpoints", processes=4, part=part, parts=2, save=save)
