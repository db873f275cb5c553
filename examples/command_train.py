"""A trainer of its own: which letter follows which, learnt by gradient descent in plain Python.

It knows nothing of the orchestrator. It prints, saves checkpoints, can resume, and saves and ends
when it gets SIGTERM; command.yaml tells the orchestrator how to understand that.

    python command_train.py --data corpus.jsonl --out out --final out/final
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import struct
from itertools import pairwise
from pathlib import Path

LETTERS = " abcdefghijklmnopqrstuvwxyz"
SIZE = len(LETTERS)
BATCH = 400  # pairs of letters per step
SAVE_EVERY = 50

Weights = list[list[float]]


def main() -> None:
    """Train from the start or from a checkpoint."""
    given = arguments()
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stop.append(number))
    pairs = read_pairs(given.data)
    step, weights = load(given.resume) if given.resume else (0, [[0.0] * SIZE for _ in LETTERS])
    while step < given.steps and not stop:
        step += 1
        # The rows of a step follow from its number, so that a resumed run is the same run.
        batch = random.Random(step).choices(pairs, k=BATCH)  # noqa: S311 - no secret
        loss = train_step(weights, batch, given.learning_rate)
        print(f"step {step}/{given.steps} loss {loss:.4f} lr {given.learning_rate}", flush=True)
        if step % SAVE_EVERY == 0 or stop:
            save(given.out / f"checkpoint-{step}", step, weights)
    if not stop:
        given.final.mkdir(parents=True, exist_ok=True)
        write_safetensors(given.final / "model.safetensors", weights)
        print("trained")


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--final", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=20.0)
    return parser.parse_args()


def read_pairs(path: Path) -> list[tuple[int, int]]:
    """Return all pairs of neighbouring letters as their numbers."""
    texts = [json.loads(line)["text"].lower() for line in path.read_text().splitlines()]
    numbers = [LETTERS.find(letter) for letter in "".join(texts)]
    return [(a, b) for a, b in pairwise(numbers) if a >= 0 and b >= 0]


def train_step(weights: Weights, batch: list[tuple[int, int]], rate: float) -> float:
    """Take one step of gradient descent; return the mean cross-entropy before it."""
    counts = [[0] * SIZE for _ in LETTERS]
    for first, second in batch:
        counts[first][second] += 1
    loss = 0.0
    for row, seen in zip(weights, counts, strict=True):
        total = sum(math.exp(x) for x in row)
        times = sum(seen)
        for n, count in enumerate(seen):
            share = math.exp(row[n]) / total
            loss -= count * math.log(share)
            row[n] -= rate * (times * share - count) / len(batch)
    return loss / len(batch)


def save(folder: Path, step: int, weights: Weights) -> None:
    """Write a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"step": step, "weights": weights}))
    (folder / "done").touch()  # last: it says that the checkpoint is complete


def load(folder: Path) -> tuple[int, Weights]:
    """Return step and weights of a checkpoint."""
    state = json.loads((folder / "state.json").read_text())
    return state["step"], state["weights"]


def write_safetensors(path: Path, weights: Weights) -> None:
    """Write the weights as the safetensors format has them: header's size, header, numbers."""
    numbers = [x for row in weights for x in row]
    entry = {"dtype": "F32", "shape": [SIZE, SIZE], "data_offsets": [0, 4 * len(numbers)]}
    header = json.dumps({"weights": entry}).encode()
    path.write_bytes(
        struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(numbers)}f", *numbers)
    )


if __name__ == "__main__":
    main()
