"""What a job's store will hold and cost, in words, as far as it can be foreseen."""

from __future__ import annotations

from typing import Any

from blocks.stores.prices import EGRESS, STORAGE
from blocks.stores.store import KEPT
from flows.renting.cost_estimate import sent_home
from trainer.config import TrainingJob
from trainer.config.store_urls import parse_store_url


def store_cost(job: TrainingJob, facts: dict[str, Any]) -> dict[str, float] | None:
    """Return GB that go there and stay there, and USD; None for a folder or an unknown store.

    Args:
        job: what is trained.
        facts: as `estimated` returns them.
    """
    scheme = parse_store_url(job.store).scheme if job.store else ""
    if scheme not in EGRESS:
        return None
    sent = sent_home(job, facts)
    checkpoint, output = sent.checkpoint / 1e9, sent.output / 1e9
    kept = KEPT * checkpoint + output
    return {
        "sent_gb": sent.total() / 1e9,
        "kept_gb": kept,
        "usd_per_month": output * STORAGE[scheme],
        # Read by the machine that goes on after one was lost, where that is in another cloud.
        "egress_usd_per_loss": checkpoint * EGRESS[scheme],
    }


def in_words(cost: dict[str, float]) -> str:
    """Return it in one sentence."""
    return (
        f"about {cost['sent_gb']:.2g} GB go to the store, at most {cost['kept_gb']:.2g} GB are there "
        f"at once; a lost machine costs about {cost['egress_usd_per_loss']:.2g} USD of egress unless "
        f"the next one is in the store's cloud, the result {cost['usd_per_month']:.2g} USD a month"
    )
