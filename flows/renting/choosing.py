"""Which offer is tried next, and what the failures so far rule out."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from flows.renting.market import Choice, Market
from trainer.contract.errors import CapacityError, OrchestratorError, ProviderError, Scope

MANY = 3  # failed boots, after which a provider is tried last


class _Place(NamedTuple):
    """What a failure rules out: everything that has these values; None stands for any."""

    provider: str
    region: str | None = None
    zone: str | None = None
    kind: str | None = None
    offer: str | None = None
    spot: bool | None = None

    def holds(self, choice: Choice) -> bool:
        """Whether an offer is ruled out by it; an id of its own may change with every search."""
        whole = _place(choice, Scope.OFFER)
        return all(mine is None or mine == its for mine, its in zip(self, whole, strict=True))


class Choosing:
    """The offers of one search for machines: those that failed, and the next ones."""

    def __init__(self, nodes: int, most: int) -> None:
        """Begin.

        Args:
            nodes: how many machines are needed.
            most: how many kinds of machine are tried.
        """
        self._nodes = nodes
        self._most = most
        self._ruled_out: set[_Place] = set()
        self._named: set[_Place] = set()  # where a provider says that it has what it lacked
        self._kinds: set[tuple[str, str]] = set()
        self._failed_boots: Counter[str] = Counter()
        self._stories: list[str] = []
        self._silent: dict[str, OrchestratorError] = {}

    def next(self, market: Market) -> list[Choice]:
        """Return the offers for the next attempt's machines; none when too few are left."""
        left = [choice for choice in market.choices if self._is_left(choice)]
        left.sort(key=lambda choice: not any(place.holds(choice) for place in self._named))
        while left:
            # A provider whose machines do not boot comes last: every try costs the whole deadline.
            boots = (c for c in left if self._failed_boots[c.provider.label] < MANY)
            first = next(boots, left[0])
            # Machines that train together come from one provider: others' do not reach them.
            same = [choice for choice in left if choice.provider is first.provider]
            begun = same[same.index(first) :]
            offers = first.provider.gang_offers([choice.offer for choice in begun], self._nodes)
            if len(offers) == self._nodes:
                return [Choice(first.provider, offer) for offer in offers]
            left = [choice for choice in left if choice not in same]
        return []

    def leave_out(self, provider: str, error: OrchestratorError) -> None:
        """Ask no more of a provider, by its label: it would refuse the next offer too."""
        self._silent[provider] = error
        self._ruled_out.add(_Place(provider))

    def failed(self, choice: Choice, error: OrchestratorError | None, cause: str) -> None:
        """Note what came of an offer.

        Args:
            choice: what was tried.
            error: why it led to no machine.
            cause: the same in words.
        """
        label = choice.provider.label
        scope = error.scope if isinstance(error, ProviderError) else Scope.OFFER
        self._ruled_out |= {_place(choice, scope), _place(choice, Scope.OFFER)}
        if isinstance(error, ProviderError):
            kind = choice.offer.instance_type
            self._named |= {_Place(label, zone=zone, kind=kind) for zone in error.zones}
        # Zones that are sold out one after the other are one kind of machine that is not to be had.
        self._kinds.add((label, choice.offer.id or choice.offer.instance_type))
        self._stories.append(f"{label} {choice.offer.instance_type}: {cause}")

    def did_not_boot(self, choice: Choice) -> None:
        """Note that a machine was hired and given up before it was ready."""
        self._failed_boots[choice.provider.label] += 1

    def nothing(self, market: Market) -> OrchestratorError:
        """Return the error that says why no offer led to a machine."""
        if self._stories:
            problems = {**market.problems, **self._silent}
            words = [f"{label}: {error.message}" for label, error in problems.items()]
            return CapacityError(
                f"None of {len(self._stories)} offers led to a machine: "
                f"{' '.join([*self._stories, *words])}"
            )
        if len(self._silent) == 1:
            return next(iter(self._silent.values()))
        if self._silent:
            words = [f"{label}: {error.message}" for label, error in self._silent.items()]
            return CapacityError(f"No provider can be used: {'; '.join(words)}")
        return market.why_empty()

    def _is_left(self, choice: Choice) -> bool:
        if any(place.holds(choice) for place in self._ruled_out):
            return False
        # When as many kinds were tried as may be, other places of those kinds are still tried.
        kind = (choice.provider.label, choice.offer.id or choice.offer.instance_type)
        return len(self._kinds) < self._most or kind in self._kinds


def _place(choice: Choice, scope: Scope) -> _Place:
    offer, label = choice.offer, choice.provider.label
    match scope:
        case Scope.ACCOUNT:
            return _Place(label)
        case Scope.REGION:
            return _Place(label, offer.region)
        case Scope.ZONE:
            return _Place(label, offer.region, offer.zone)
        case Scope.OFFER:
            # What is lacking for spot machines, such as their quota, may be there for others.
            return _Place(
                label, offer.region, offer.zone, offer.instance_type, offer.id, offer.spot
            )
