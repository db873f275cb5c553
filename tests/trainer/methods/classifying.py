"""What the tests of classification have in common."""

from __future__ import annotations

import json
from pathlib import Path

from tests.trainer.jobs import TINY_LLAMA

TOPICS = TINY_LLAMA.parent / "methods" / "topics.jsonl"
SETTINGS = {
    "method": "classify",
    "model": str(TINY_LLAMA),
    "data": {"path": str(TOPICS), "max_rows": 120, "eval_fraction": 0.2},
    "peft": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1},
    "max_steps": 16,
    "save_steps": 9,
    "eval_steps": 16,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.002,
}


def written(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
