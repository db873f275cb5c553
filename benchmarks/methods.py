"""Train every method's example, `sft` with every kind of adapter, on a mix and on a stream; print a table.

Each is trained whole and once more with a kill in the middle.

    <method> <metric> <before> <after> <seconds> <resumed exactly: yes|no>

Exactly: every loss, gradient norm and learning rate, and every weight, to the last bit. The kill is
a SIGKILL of the trainer, whose supervisor goes on from the newest checkpoint. Exits with 1 unless
every method got better and resumed exactly.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flows.job_file import load_job
from trainer.config.methods import METHODS
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.metrics import read_metrics

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
EXACT = ("train_loss", "eval_loss", "grad_norm", "learning_rate")
BETTER = {
    "sft": ("eval_loss", -1),
    "cpt": ("eval_loss", -1),
    "dpo": ("eval_rewards/margins", 1),
    "kto": ("eval_rewards/margins", 1),
    "orpo": ("eval_rewards/margins", 1),
    "reward": ("eval_margin", 1),
    "classify": ("eval_macro_f1", 1),
    "rloo": ("reward", 1),
    "grpo": ("reward", 1),
    "ppo": ("reward", 1),
}
"""What each method is about, and whether more of it is better."""
CHATS, TEXTS = str(EXAMPLES / "quickstart.jsonl"), str(EXAMPLES / "corpus.jsonl")
OF_SFT: dict[str, dict[str, Any]] = {
    "dora": {"peft": {"use_dora": True}},
    **{kind: {"peft": {"peft_type": kind}} for kind in ("ia3", "loha", "lokr", "oft", "vera")},
    "new_tokens": {"new_tokens": ["LoRA", "<|new|>"]},
    "mix": {
        "dataset": [
            {"path": CHATS, "share": 0.7, "eval_fraction": 0.1},
            {"path": TEXTS, "share": 0.3, "eval_fraction": 0.1},
        ]
    },
    "stream": {
        "dataset": {
            "streaming": True,
            "sources": [
                {"path": CHATS, "share": 0.7, "eval_path": CHATS},
                {"path": TEXTS, "share": 0.3},
            ],
        }
    },
}
"""What `sft` is trained with or on besides, in fewer steps than its example has."""
SAVE_STEPS = 10
SHARE = 0.2  # of the steps, averaged at both ends, where there is no evaluation


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", help="default: all")
    chosen = parser.parse_args().methods or [*sorted(METHODS), *OF_SFT]
    print(f"{'method':10} {'metric':22} {'before':>9} {'after':>9} {'seconds':>8}  resumed exactly")
    good = [row(method) for method in chosen]
    return 0 if all(good) else 1


def row(method: str) -> bool:
    """Train one method twice, print its row, and tell whether all is well."""
    metric, sign = BETTER.get(method, BETTER["sft"])
    with tempfile.TemporaryDirectory(prefix=f"{method}-") as folder:
        began = time.monotonic()
        whole = trained(method, Path(folder) / "whole")
        seconds = time.monotonic() - began
        killed = trained(method, Path(folder) / "killed", kill_at=random.random())  # noqa: S311
        before, after = ends(whole, metric)
        exact = curve(whole) == curve(killed) and weights(whole) == weights(killed)
    print(
        f"{method:10} {metric:22} {before:9.4f} {after:9.4f} {seconds:8.1f}  "
        f"{'yes' if exact else 'no'}",
        flush=True,
    )
    return exact and (after - before) * sign > 0


def trained(method: str, folder: Path, kill_at: float | None = None) -> JobDirectory:
    """Return the directory of the method's example, trained to its end.

    Args:
        method: its name, or what `sft` is trained with.
        folder: to make.
        kill_at: the share of the steps after which the trainer is killed once; None: never.
    """
    job = directory_of(method, folder, save_steps=SAVE_STEPS)
    with supervised(job) as supervisor:
        while kill_at is not None and supervisor.poll() is None:
            status = job.read_status()
            if status.total_steps and status.step >= max(1, kill_at * (status.total_steps - 2)):
                os.kill(status.trainer_pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        code = supervisor.wait()
    status = job.read_status()
    if status.state is not JobState.COMPLETED or (kill_at is not None and status.restarts != 1):
        sys.exit(f"{method}: {status.state} ({code}), {status.restarts} restarts: {status.error}")
    return job


def directory_of(method: str, folder: Path, *, restarts: int = 2, **settings: Any) -> JobDirectory:
    """Make the job directory of a method's example, with some of its settings replaced."""
    is_sft = method == "sft" or method in OF_SFT
    name = "quickstart.yaml" if is_sft else f"methods/{method}.yaml"
    config = load_job(EXAMPLES / name).training.model_dump(mode="json")
    if method in OF_SFT:
        config |= {"max_steps": 60, "learning_rate": None, **OF_SFT[method]}
    config |= {"report_to": [], **settings}
    folder.mkdir()
    job = JobDirectory(folder)
    job.job.write_text(json.dumps({"config": config, "limits": {"max_restarts": restarts}}))
    return job


def supervised(job: JobDirectory) -> subprocess.Popen[bytes]:
    """Start the supervisor of a job."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", str(job.root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def ends(job: JobDirectory, metric: str) -> tuple[float, float]:
    """Return a metric at the beginning and at the end."""
    steps, _ = read_metrics(job.metrics)
    values = [steps[n][metric] for n in sorted(steps) if steps[n].get(metric) is not None]
    if metric.startswith("eval_"):
        return values[0], values[-1]
    count = max(1, round(len(values) * SHARE))
    return sum(values[:count]) / count, sum(values[-count:]) / count


def curve(job: JobDirectory) -> dict[int, dict[str, Any]]:
    """Return what must be the same to the last bit."""
    steps, _ = read_metrics(job.metrics)
    return {n: {key: steps[n].get(key) for key in EXACT} for n in steps}


def weights(job: JobDirectory) -> list[str]:
    """Return the SHA-256 of every file of weights in the output."""
    files = sorted(job.output.glob("*.safetensors"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


if __name__ == "__main__":
    sys.exit(main())
