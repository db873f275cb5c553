"""The machines for hire: the offers of a job's providers, in the order in which they are tried."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from blocks.models import Offer
from blocks.providers.base import Provider
from blocks.registry import (
    configured_providers,
    how_to_set_up,
    load_provider,
    provider_class,
    provider_names,
)
from flows.renting.bad_hosts import is_bad
from flows.renting.expected_cost import History, ranked
from trainer.config import Limits, Resources, TrainingJob
from trainer.contract.errors import CapacityError, ConfigError, OrchestratorError

ANY = "any"


@dataclass(frozen=True, slots=True)
class Choice:
    """An offer and the provider that makes it."""

    provider: Provider
    offer: Offer

    def __str__(self) -> str:
        offer = self.offer
        gpu = f"{offer.gpu_count} × {offer.gpu_type}" if offer.gpu_count else "CPU"
        spot = ", spot" if offer.spot else ""
        whole = offer.whole_per_hour
        price = "an unknown price" if whole is None else f"{whole:.4g} USD/h"
        return (
            f"{self.provider.label} {offer.instance_type} ({gpu}{spot}) in {offer.region} "
            f"at {price}"
        )


@dataclass(slots=True)
class Market:
    """The offers, first choice first, and what kept a provider from making any."""

    choices: list[Choice] = field(default_factory=list)
    problems: dict[str, OrchestratorError] = field(default_factory=dict)
    """By the provider's label."""

    def why_empty(self) -> OrchestratorError:
        """Return the error that says why there is nothing to choose from."""
        if len(self.problems) == 1:
            return next(iter(self.problems.values()))
        causes = "; ".join(f"{label}: {error.message}" for label, error in self.problems.items())
        return CapacityError(f"No provider has a machine for this job: {causes}")


async def market(job: TrainingJob, facts: dict[str, Any] | None = None) -> Market:
    """Ask all providers of a job at once.

    Providers come in the job's order, the offers of each cheapest first; with `any` the cheapest
    of all comes first. The cheapest is the one by which the job is expected to cost least
    (`flows.renting.expected_cost`); where its time is not known, the one with the lowest price,
    interruptions reckoned in.

    Args:
        job: the job.
        facts: as `flows.renting.cost_estimate.estimated` returns them, where they are known.

    Raises:
        ConfigError: a provider is not known, or none is set up.
    """
    # All at once, because each may take seconds; one that fails must not hide the others' offers.
    providers = await providers_of(job)
    resources = _resources(job, providers)
    answers = await asyncio.gather(
        *(_offers(provider, resources, job.limits) for provider in providers)
    )
    found = Market()
    for provider, answer in zip(providers, answers, strict=True):
        if isinstance(answer, OrchestratorError):
            found.problems[provider.label] = answer
        else:
            found.choices += [Choice(provider, offer) for offer in answer]
    history = History()
    if ANY in job.providers:
        found.choices = _ranked(found.choices, job, facts, history)
    else:
        each = [
            [one for one in found.choices if one.provider is provider] for provider in providers
        ]
        found.choices = [one for some in each for one in _ranked(some, job, facts, history)]
    return found


def _ranked(
    choices: list[Choice], job: TrainingJob, facts: dict[str, Any] | None, history: History
) -> list[Choice]:
    offers = [(choice.provider, choice.offer) for choice in choices]
    return [choices[place] for place in ranked(offers, job, facts, history)]


async def providers_of(job: TrainingJob) -> list[Provider]:
    """Return the providers that a job names, in its order.

    Raises:
        ConfigError: one is not known, or has machines that cannot do what the job asks of several,
            or none is set up.
    """
    if ANY in job.providers:
        nodes = job.resources.nodes
        able = [one for one in await configured_providers() if one.has_network or nodes == 1]
        if not able:
            raise ConfigError(
                f"resources.nodes = {nodes}: no provider that is set up has machines that reach "
                "each other.",
                how_to_set_up(),
            )
        return able
    for label in job.providers:
        refuse_apart(job, label)
    providers = [await load_provider(label) for label in job.providers]
    # Of several that are named, some may lack credentials: the others do.
    lacking = [provider for provider in providers if not provider.is_configured()]
    if lacking and len(lacking) == len(providers):
        names = ", ".join(provider.label for provider in lacking)
        remedy = how_to_set_up(provider.provider_name for provider in lacking)
        raise ConfigError(f"provider = {names}: not set up.", remedy)
    return [provider for provider in providers if provider.is_configured()]


def refuse_apart(job: TrainingJob, label: str) -> None:
    """Refuse a provider whose machines do not reach each other for a job that takes several.

    Raises:
        ConfigError: it is one, or is not known.
    """
    kind, nodes = provider_class(label), job.resources.nodes
    if nodes == 1 or kind.has_network:
        return
    why = "is one machine" if kind.is_home else "has machines that do not reach each other"
    able = [name for name in provider_names() if provider_class(name).has_network]
    raise ConfigError(
        f"resources.nodes = {nodes}: provider {label} {why}.",
        f"Choose {' or '.join(able)}, or set resources.nodes: 1.",
    )


def _resources(job: TrainingJob, providers: list[Provider]) -> Resources:
    """Return what is asked for; a job that may go to several providers means one GPU at least."""
    wanted = job.resources
    if wanted.gpu_count is None and len(providers) > 1:
        return wanted.model_copy(update={"gpu_count": 1})
    return wanted


async def _offers(
    provider: Provider, resources: Resources, limits: Limits
) -> list[Offer] | OrchestratorError:
    try:
        offers = await provider.offers(resources, limits)
    except OrchestratorError as error:
        return error
    offers = [_unless_free(provider, offer) for offer in offers]
    cap, nodes = limits.max_price_per_hour, resources.nodes
    within = [offer for offer in offers if cap is None or offer.rank_price <= cap]
    good = [offer for offer in within if not is_bad(provider.label, offer)]
    if not within:
        return CapacityError(
            f"All {len(offers)} offers of {provider.label} cost more than "
            f"limits.max_price_per_hour = {cap:g}."
        )
    able = len(provider.gang_offers(within, nodes))
    if able < nodes:
        return CapacityError(
            f"resources.nodes = {nodes}: {provider.label} has {able} "
            f"{'machine' if able == 1 else 'machines'} for this job."
        )
    # A host that failed within the hour is better than none.
    return good if good and len(provider.gang_offers(good, nodes)) == nodes else within


def _unless_free(provider: Provider, offer: Offer) -> Offer:
    """Return an offer whose price is unknown where its provider says 0 and gives nothing away."""
    if offer.price_per_hour or provider.may_be_free:
        return offer
    return dataclasses.replace(offer, price_per_hour=None)
