"""A trainer that starts at once and needs no torch, for tests of what happens around a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TRAINER = """
import argparse, json, os, pathlib, signal, struct, sys, time
words = argparse.ArgumentParser()
words.add_argument("--out"); words.add_argument("--final"); words.add_argument("--resume")
words.add_argument("--steps", type=int, default=20); words.add_argument("--hold", type=int, action="append", default=[])
words.add_argument("--save", type=int, default=5); words.add_argument("--pace", type=float, default=0)
words.add_argument("--weights", default="model.safetensors"); words.add_argument("--fails", type=int)
words.add_argument("--go")
given = words.parse_args()
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
step = 0
if given.resume:
    step = json.loads(pathlib.Path(given.resume, "state.json").read_text())["step"]
    print("resumed at", step)
def may_go():  # beyond the step in the file; an empty one lets it go on to the end
    try:
        return step <= float(pathlib.Path(str(given.go)).read_text() or "inf")
    except OSError:
        return False
def save():
    folder = pathlib.Path(given.out, f"checkpoint-{step}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    (folder / "done").touch()
while step < given.steps and not stop:
    step += 1
    print(f"step {step}/{given.steps} loss {1 / step:.4f} lr 1.0e-3", flush=True)
    time.sleep(given.pace)
    if step % given.save == 0:
        save()
    if step == given.fails:
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB.")
        sys.exit(1)
    while step in given.hold and not given.resume and not stop and not may_go():
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


def stand_in(folder: Path, *words: object, **settings: Any) -> dict[str, Any]:
    """Return the `training` of a job whose trainer is the script above.

    Args:
        folder: where the script is put.
        words: its arguments, such as --steps.
        settings: of `training.command`.
    """
    script = folder / "my_train.py"
    script.write_text(TRAINER)
    program = ("python", "my_train.py", "--out", "{checkpoints}", "--final", "{output}")
    command = {
        "run": [*program, *map(str, words)],
        "files": [str(script)],
        "metrics": [PATTERN],
        "checkpoints": "out/checkpoint-*",
        "checkpoint_marker": "done",
        "resume": ["--resume", "{resume_from}"],
        "output": "out/final",
        **settings,
    }
    return {"trainer": "command", "command": command}


def patient(folder: Path) -> dict[str, Any]:
    """Return the `training` of a job that takes minutes, and hardly any processor, if not ended."""
    return stand_in(folder, "--steps", 20_000, "--pace", 0.02, "--save", 50)
