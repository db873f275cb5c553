"""Prove how a job's rows are laid out: `python -m trainer.training.proving JOB.json` prints one JSON object.

The trainer is put together as for the training, with the model's own weights, and makes no step. What
is said is what the log of the training says.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.job_directory import JobDirectory
from trainer.engine.going_on import load_adapter_settings
from trainer.training.answering import answer, start_alone
from trainer.training.starting import set_environment
from trainer.training.train import prepare

ROWS = 500  # more than a proof needs, for packing and for a rollout


def prove(config: TrainingConfig) -> list[dict[str, Any]]:
    """Return what was proven: of each proof its words and what it found.

    Raises:
        OrchestratorError: no way is right for the model, or the trainer cannot be put together.
    """
    from trainer.methods.ways import proofs_in

    with tempfile.TemporaryDirectory() as folder:
        directory = JobDirectory(folder)
        run, _, _ = prepare(directory, _without_side_effects(config))
        importlib.import_module(METHODS[config.method].module).build(run)
        return [{"text": proof.in_words(), **asdict(proof)} for proof in proofs_in(directory)]


def _without_side_effects(config: TrainingConfig) -> TrainingConfig:
    """Return the settings without what a proof does not need, and without code of the user's."""
    unevaluated = config.dataset.with_each(eval_fraction=0.0, eval_path=None, eval_split=None)
    changed: dict[str, Any] = {"dataset": unevaluated.with_at_most(ROWS)}
    changed |= {"report_to": [], "callbacks": []}
    if METHODS[config.method].generates:
        # Any will do: nothing is scored.
        changed |= {"reward_functions": ["length"], "reward_model": None}
        changed |= {"reward_judge": None, "reward_sandbox": None}
    if config.adapter:
        changed["peft"] = load_adapter_settings(config)
    return config.model_copy(update=changed)


def main(path: str) -> int:
    """Print what was proven, or the error as a record, of the job in a JSON file."""
    set_environment()
    return answer(path, lambda job: {"proofs": prove(job.training)})


if __name__ == "__main__":
    start_alone(sys.argv[1])
    sys.exit(main(sys.argv[1]))
