"""Somebody else's trainer, small and without torch, in a job directory under the real supervisor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.trainer.supervised import Supervised

TRAINER = """
import argparse, json, os, pathlib, signal, struct, sys, time
words = argparse.ArgumentParser()
words.add_argument("--out"); words.add_argument("--final"); words.add_argument("--resume")
words.add_argument("--steps", type=int, default=20); words.add_argument("--hold", type=int)
words.add_argument("--weights", default="model.safetensors"); words.add_argument("--fails", type=int)
given = words.parse_args()
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
step = 0
if given.resume:
    step = json.loads(pathlib.Path(given.resume, "state.json").read_text())["step"]
    print("resumed at", step)
def save():
    folder = pathlib.Path(given.out, f"checkpoint-{step}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    (folder / "done").touch()
while step < given.steps and not stop:
    step += 1
    print(f"step {step}/{given.steps} loss {1 / step:.4f} lr 1.0e-3", flush=True)
    if step % 5 == 0:
        save()
    if step == given.fails:
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB.")
        sys.exit(1)
    while step == given.hold and not given.resume and not stop:
        time.sleep(0.01)
if stop:
    save()
    sys.exit(0)
final = pathlib.Path(given.final)
final.mkdir(parents=True, exist_ok=True)
header = b"{}"
(final / given.weights).write_bytes(struct.pack("<Q", len(header)) + header + bytes([step]))
(final / "training_args.bin").write_bytes(b"pickle")
print("all is done")
"""
PATTERN = (
    r"step (?P<step>\d+)/(?P<total_steps>\d+) loss (?P<train_loss>\S+) lr (?P<learning_rate>\S+)"
)


def foreign(root: Path, *words: str, **settings: Any) -> Supervised:
    """Return a job whose trainer is the script above; `limits` and `command` may be given."""
    script = root.parent / "my_train.py"
    script.write_text(TRAINER)
    limits = settings.pop("limits", {})
    command = {
        "run": [
            *("python", "my_train.py", "--out", "{checkpoints}", "--final", "{output}"),
            *words,
        ],
        "files": [str(script)],
        "metrics": [PATTERN],
        "checkpoints": "out/checkpoint-*",
        "checkpoint_marker": "done",
        "resume": ["--resume", "{resume_from}"],
        "output": "out/final",
        **settings,
    }
    job = Supervised(root, "")
    job.write_job(config={"trainer": "command", "command": command}, limits=limits)
    return job


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]
