"""What a job will take, before any money is spent: steps counted, time and cost estimated.

Time on a GPU is arithmetic over throughput: per token 6 floating-point operations per parameter
when all weights are trained (Kaplan et al. 2020, arXiv:2001.08361), 4 when only adapters are,
because the gradients of frozen weights are not needed; 2 more with gradient checkpointing.
Fine-tuning usually gets a third of the GPU's peak. Expect it to be right within a factor of two.
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

from blocks.models import Offer
from blocks.providers.gpu_names import matches
from flows.trainer_process import ask_trainer
from trainer.config import TrainingConfig, TrainingJob
from trainer.config.code_references import references
from trainer.contract.errors import ConfigError

UTILISATION = 0.33
SETUP_SECONDS = 300.0  # for booting, installing and fetching the model, on a machine elsewhere
LONG_SECONDS = 1800.0  # losing more than this with a spot machine is refused
LONG_STEPS = 1000  # the same in steps, where the time of a step is not known
OPERATIONS = {"all": 6, "adapters": 4}  # per token and parameter
TERAFLOPS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "RTX 6000 Ada": 364,
    "RTX PRO 6000": 503,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "RTX A6000": 155,
    "A6000": 155,
    "RTX A5000": 111,
    "A40": 150,
    "A10": 125,
    "L4": 121,
    "V100": 125,
    "T4": 65,
}
"""Dense bfloat16 (V100, T4: float16) tensor throughput as the maker states it; first match wins."""


def can_estimate(job: TrainingJob) -> bool:
    """Whether a job's steps can be counted here: the trainer is ours, and there is torch.

    Counting trains a few steps, and code of the user's is run where the job trains, not here.
    """
    ours = job.training.trainer == "builtin" and not any(references(job.training))
    return ours and importlib.util.find_spec("torch") is not None


def decides(job: TrainingJob) -> bool:
    """Whether an estimate decides something before a machine is hired: it takes some ten seconds.

    Offers are then ranked by what the job is expected to cost, and else by their price.
    """
    return job.limits.max_cost is not None or job.resources.spot is not False


def estimated(job: TrainingJob) -> dict[str, Any]:
    """Return what `trainer.training.estimate` finds out, in a process of its own. It blocks.

    Raises:
        OrchestratorError: the job is wrong, or cannot be estimated.
    """
    return ask_trainer("estimate", job)


def seconds_on(offer: Offer, job: TrainingJob, facts: dict[str, Any]) -> float | None:
    """Return how long the training takes on an offer's machine; None when that is not known.

    Args:
        offer: the machine, or each of several.
        job: what is trained.
        facts: as `estimated` returns them: of one machine.
    """
    config = job.training
    # Several machines share the examples of an epoch, but each takes all of a number of steps.
    nodes = 1 if config.max_steps > 0 else job.resources.nodes
    if not offer.gpu_count:  # taken to be as fast as this computer
        return None if facts["seconds"] is None else float(facts["seconds"]) / nodes
    names = (offer.gpu_type or "", offer.instance_type)
    peak = next((tf for name, tf in TERAFLOPS.items() if matches([name], *names)), None)
    if peak is None:
        return None
    per_token = OPERATIONS["adapters" if config.peft else "all"] + (
        2 if facts["gradient_checkpointing"] else 0
    )
    operations = per_token * facts["parameters"] * _tokens(config, facts)
    return float(operations / (peak * offer.gpu_count * 1e12 * UTILISATION)) / nodes


def cost_on(
    offer: Offer, job: TrainingJob, facts: dict[str, Any], *, share: float = 1.0
) -> float | None:
    """Return the USD that a share of the training costs on an offer's machines, set up anew.

    Without interruptions: see `flows.renting.expected_cost`.
    """
    seconds = seconds_on(offer, job, facts)
    whole = offer.whole_per_hour
    if seconds is None or whole is None:
        return None
    traffic = sent_home(job, facts).total(share) / 1e9 * offer.traffic_price
    return job.resources.nodes * whole * (seconds * share + SETUP_SECONDS) / 3600 + traffic


class SentHome(NamedTuple):
    """Bytes that come home from a machine, as far as they can be foreseen."""

    checkpoint: float
    checkpoints: float
    output: float

    def total(self, share: float = 1.0) -> float:
        """Return the bytes of a share of the training, with its output."""
        return self.checkpoint * self.checkpoints * share + self.output


def sent_home(job: TrainingJob, facts: dict[str, Any]) -> SentHome:
    """Return what comes home of a training.

    Args:
        job: what is trained.
        facts: as `estimated` returns them.
    """
    # A checkpoint has the trained weights and what the optimizer keeps of each, as a rule 2 numbers.
    weights = 4.0 * facts["trainable_parameters"]
    merged = 2.0 * facts["parameters"] if job.training.merge else 0.0
    checkpoints = facts["steps"] / job.training.save_steps
    return SentHome(3 * weights, max(1.0, checkpoints), weights + merged)


def refuse_risk(job: TrainingJob, facts: dict[str, Any] | None, seconds: float | None) -> None:
    """Refuse a spot machine for a job that would lose too much with it.

    Args:
        job: the job.
        facts: as `estimated` returns them, or None.
        seconds: what the training takes, where it is known.

    Raises:
        ConfigError: the training goes on for long without a checkpoint.
    """
    if job.resources.spot is False:
        return
    # None allows spot machines too, and the cheapest offer usually is one.
    config = job.training
    steps = facts["steps"] if facts else (config.max_steps if config.max_steps > 0 else None)
    unsaved = config.save_steps if steps is None else min(config.save_steps, steps)
    if facts and seconds:
        gap = seconds * unsaved / max(1, facts["steps"])
        long, words = gap > LONG_SECONDS, f"about {gap / 60:.0f} minutes"
    else:
        long, words = unsaved >= LONG_STEPS, f"{unsaved} steps"
    if long:
        raise ConfigError(
            f"training.save_steps = {config.save_steps}: on a spot machine, which may be taken back "
            f"at any time, {words} of training would be lost with it.",
            "Lower save_steps, or set resources.spot: false.",
        )


def _tokens(config: TrainingConfig, facts: dict[str, Any]) -> float:
    """Return the tokens of the whole training."""
    # Packing fills every row up to max_length; without it, rows are as long as the data's.
    rows = facts["steps"] * config.per_device_train_batch_size * config.gradient_accumulation_steps
    mean = config.max_length if config.packs else facts["tokens"] / max(1, facts["rows"])
    return float(rows * mean)
