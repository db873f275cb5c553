"""What a job is expected to cost at an offer: with the interruptions of spot machines reckoned in.

Interruptions come at a rate of their own, whenever they like. A training of T seconds that saves every
τ of them, whose checkpoint takes δ to get home and whose next machine takes R to be ready, is then
expected to take

    T / τ · (exp(λτ) - 1) / λ · exp(λ(R + δ))

seconds (Daly 2006, doi:10.1016/j.future.2004.11.016; saving goes on beside the training here, so δ
is not trained less, but lost more). Without interruptions that is T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blocks.models import Offer
from blocks.providers.base import Provider
from flows.renting.cost_estimate import SETUP_SECONDS, seconds_on, sent_home
from flows.renting.hire import HOUR, Hire
from flows.renting.journal import Journal
from flows.run_folder import RunFolder, newest, run_folders
from trainer.config import TrainingJob

ASSUMED_PER_HOUR = 0.05  # interruptions, where nobody says anything: one in 20 hours
WEIGHT_HOURS = 20.0  # of spot machines used here that weigh as much as what is said or assumed
KNOWN_HOURS = 1.0  # of them from which on history is worth naming
LINE_BYTES = 25e6  # a second that come home of a checkpoint
UNSAVED_SECONDS = 600.0  # between two checkpoints, where a step's time is not known
RUNS = 200  # of this computer that are looked at, those that hired last
NOTICED_SECONDS = 30.0  # the shortest warning that a provider gives
LOST = "MachineLost"  # how the cause of a row begins whose machine was taken back


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruptions:
    """How often a spot machine is taken back."""

    per_hour: float
    source: str
    """provider: it publishes that; history: of the machines used here; assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a job is expected to take at an offer; None is not known."""

    seconds: float | None
    """From the order to the end, with what is trained again and every further machine's start."""
    usd: float | None
    factor: float
    """How many times longer it takes than without interruptions."""
    interruptions: Interruptions | None
    """None: it is no spot machine."""


class History:
    """The machines that were hired from this computer, by their rows; read when first asked for."""

    def __init__(self, rows: Callable[[], Iterable[Hire]] | None = None) -> None:
        self._read = rows or _rows
        self._known: list[Hire] | None = None

    def _like(self, label: str, offer: Offer) -> list[Hire]:
        """Return the machines of a provider: of that kind, if there are any."""
        if self._known is None:
            self._known = [hire for hire in self._read() if hire.instance_id]
        rows = [hire for hire in self._known if hire.provider == label]
        return [hire for hire in rows if hire.instance_type == offer.instance_type] or rows

    def interruptions(self, label: str, offer: Offer) -> Interruptions:
        """Return how often a spot machine is taken back, by all that is known.

        Args:
            label: its provider's.
            offer: for which.
        """
        said = offer.interruptions_per_hour
        before = ASSUMED_PER_HOUR if said is None else max(0.0, said)
        rows = [hire for hire in self._like(label, offer) if hire.spot]
        hours = sum(hire.seconds() for hire in rows) / HOUR
        lost = sum(hire.cause.startswith(LOST) for hire in rows)
        # What happened here outweighs the rest the more of it there is.
        rate = (before * WEIGHT_HOURS + lost) / (WEIGHT_HOURS + hours)
        source = "assumed" if said is None else "provider"
        return Interruptions(per_hour=rate, source="history" if hours >= KNOWN_HOURS else source)

    def set_up_seconds(self, label: str, offer: Offer) -> float:
        """Return how long a machine takes from its order to its first step.

        Args:
            label: its provider's.
            offer: for which.
        """
        known = sorted(
            hire.set_up_seconds
            for hire in self._like(label, offer)
            if hire.set_up_seconds is not None
        )
        return known[len(known) // 2] if known else SETUP_SECONDS


def _rows() -> Iterable[Hire]:
    """Yield the machines of the runs that hired last."""
    runs = [RunFolder(folder.name) for folder in run_folders()]
    for run in newest(runs, RUNS, lambda run: run.journal):
        # A journal that cannot be understood is its own job's trouble, and not that of this one.
        with suppress(AttributeError, LookupError, TypeError, ValueError):
            yield from [hire for hire in Journal.of(run).hires if math.isfinite(hire.seconds())]


def expected_on(
    provider: Provider,
    offer: Offer,
    job: TrainingJob,
    facts: dict[str, Any] | None,
    history: History,
    *,
    share: float = 1.0,
) -> Expected:
    """Return what a job is expected to take at an offer.

    Args:
        provider: whose it is.
        offer: of a machine, or each of several.
        job: what is trained.
        facts: as `flows.renting.cost_estimate.estimated` returns them; None: not known.
        history: what was hired before.
        share: of the training that is left.
    """
    seconds = seconds_on(offer, job, facts) if facts else None
    if seconds is None and not offer.spot:
        return Expected(seconds=None, usd=None, factor=1.0, interruptions=None)
    label = provider.label
    set_up = history.set_up_seconds(label, offer)
    met = history.interruptions(label, offer) if offer.spot else None
    unsaved, coming = UNSAVED_SECONDS, 0.0
    if facts and seconds is not None:
        steps = max(1, facts["steps"])
        unsaved = seconds * min(job.training.save_steps, steps) / steps
        coming = sent_home(job, facts).checkpoint / LINE_BYTES
    # Where the end is announced, a checkpoint is saved at once; one that is too large to get home
    # in time was saved in vain.
    if provider.notice_command and coming <= NOTICED_SECONDS:
        unsaved, coming = min(unsaved, NOTICED_SECONDS), 0.0
    # Several machines are lost as soon as one of them is.
    rate = met.per_hour * job.resources.nodes / HOUR if met else 0.0
    factor = longer(rate, unsaved, set_up + coming)
    if seconds is None or not math.isfinite(factor):
        return Expected(seconds=None, usd=None, factor=factor, interruptions=met)
    whole = set_up + seconds * share * factor
    usd = None
    if (per_hour := offer.whole_per_hour) is not None:
        traffic = sent_home(job, facts).total(share) / 1e9 * offer.traffic_price if facts else 0.0
        usd = job.resources.nodes * per_hour * whole / HOUR + traffic
    return Expected(seconds=whole, usd=usd, factor=factor, interruptions=met)


def longer(rate: float, unsaved: float, again: float) -> float:
    """Return how many times longer a training takes with interruptions than without.

    Args:
        rate: interruptions per second.
        unsaved: seconds of training between two checkpoints.
        again: seconds that each costs beside what it trained: until the checkpoint was home, and the
            next machine ready.
    """
    if rate <= 0:
        return 1.0
    each = rate * max(unsaved, 1e-3)
    try:
        return math.expm1(each) / each * math.exp(rate * again)
    except OverflowError:  # it would hardly ever come to its end
        return math.inf


def ranked(
    offers: Sequence[tuple[Provider, Offer]],
    job: TrainingJob,
    facts: dict[str, Any] | None,
    history: History,
) -> list[int]:
    """Return the places of offers, the least expected cost first; equal ones stay in their order.

    Those of which that is not known come last, by price, with interruptions reckoned in.

    Args:
        offers: each with its provider.
        job: what is trained.
        facts: see `expected_on`.
        history: see `expected_on`.
    """

    def rank(place: int) -> tuple[bool, float, float]:
        provider, offer = offers[place]
        found = expected_on(provider, offer, job, facts, history)
        dear = offer.rank_price * found.factor
        return found.usd is None, found.usd or 0.0, dear

    return sorted(range(len(offers)), key=rank)
