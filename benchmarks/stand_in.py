"""A trainer that trains nothing, for machines that must be cheap: it speaks the job directory.

A job's `setup` puts it in the place of `trainer/training/train.py` on its machine, and nowhere else. It
writes a line, a metric and its status every second, a checkpoint, and in the end an output, until
the trainers of `STAND_IN_COUNT` machines have been at it together for `max_steps` seconds: each
leaves a file in the folder `STAND_IN_TOGETHER` when it begins. See bench_remote_fleet.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from pathlib import Path

from trainer.contract.checkpoints import NEEDED, STAGING, commit
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobDirectory, JobState, utc_now
from trainer.contract.manifest import write_manifest

SAVE_STEPS = 20


def main(root: str) -> int:
    """Pretend to train; return the exit code."""
    directory = JobDirectory(root)
    seconds = (read_json(directory.job) or {})["config"]["max_steps"]
    together, count = Path(os.environ["STAND_IN_TOGETHER"]), int(os.environ["STAND_IN_COUNT"])
    (together / str(os.getpid())).touch()
    began = time.monotonic()
    step, last = 0, None
    while last is None or step < last:
        step += 1
        tell(directory, step, last or step + seconds)
        if step % SAVE_STEPS == 0:
            save(directory, step)
        if last is None and len(list(together.iterdir())) >= count:
            last = step + seconds
        time.sleep(max(0.0, began + step - time.monotonic()))
    staged = directory.root / ".output"
    weights(staged)
    write_manifest(staged, method="sft", metrics={"train_loss": 1.0}, data={})
    staged.rename(directory.output)
    directory.update_status(state=JobState.COMPLETED)
    return 0


def tell(directory: JobDirectory, step: int, total: int) -> None:
    """Write what a trainer writes at every step; the log line tells when, by the monotonic clock."""
    loss = 2.0 + 1.0 / step
    print(f"{step} {time.monotonic():.4f} step {step}/{total}  loss {loss:.4f}", flush=True)
    record = {
        "step": step,
        "total_steps": total,
        "epoch": step / total,
        "train_loss": loss,
        "learning_rate": 2e-4,
        "timestamp": utc_now(),
    }
    with directory.metrics.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    directory.update_status(state=JobState.RUNNING, step=step, total_steps=total, durable=False)


def save(directory: JobDirectory, step: int) -> None:
    """Write a checkpoint with all the files that one must have."""
    staged = directory.checkpoints / STAGING / f"checkpoint-{step}"
    weights(staged)
    for name in (*NEEDED, "rng_state.pth"):
        (staged / name).write_text("{}")
    commit(staged, directory.checkpoints)


def weights(folder: Path) -> None:
    """Write a safetensors file with one small tensor."""
    folder.mkdir(parents=True)
    data = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
    header = {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + data
    (folder / "adapter_model.safetensors").write_bytes(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
