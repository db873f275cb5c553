"""What a failed order rules out, and which offer comes next."""

from __future__ import annotations

import dataclasses

import pytest

from blocks.models import Offer
from blocks.providers.local import Local
from flows.renting.choosing import Choosing
from flows.renting.market import Choice, Market
from trainer.contract.errors import BootError, CapacityError, CredentialsError, QuotaError, Scope

PROVIDER = Local()  # any one: only its label counts here


def choice(kind: str, region: str, zone: str) -> Choice:
    offer = Offer(
        provider="cloud", instance_type=kind, region=region, zone=zone, price_per_hour=1.0
    )
    return Choice(PROVIDER, offer)


EVERYTHING = [
    choice(kind, region, f"{region}-{letter}")
    for kind in ("small", "large")
    for region in ("east", "west")
    for letter in "ab"
]


def left(choosing: Choosing) -> list[tuple[str, str]]:
    """Return kind and zone of each offer that would be tried, in order."""
    found = []
    while chosen := choosing.next(Market(list(EVERYTHING))):
        [one] = chosen
        found.append((one.offer.instance_type, one.offer.zone))
        choosing.failed(one, CapacityError("sold out"), "sold out")
    return found


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (CapacityError("no"), lambda o: o.instance_type == "small" and o.zone == "east-a"),
        (CapacityError("no").ruling_out(Scope.ZONE), lambda o: o.zone == "east-a"),
        (QuotaError("no"), lambda o: o.region == "east"),
        (BootError("no"), lambda o: o.instance_type == "small" and o.zone == "east-a"),
        (CredentialsError("no"), lambda o: True),
        (None, lambda o: o.instance_type == "small" and o.zone == "east-a"),
    ],
    ids=["offer", "zone", "region", "boot", "account", "unknown"],
)
def test_a_failure_rules_out_what_its_scope_says_and_no_more(error, gone):
    choosing = Choosing(nodes=1, most=10)

    choosing.failed(EVERYTHING[0], error, "no")

    wanted = [(c.offer.instance_type, c.offer.zone) for c in EVERYTHING if not gone(c.offer)]
    assert left(choosing) == wanted


def test_kinds_of_machine_are_counted_and_not_zones():
    assert [kind for kind, _ in left(Choosing(nodes=1, most=1))] == ["small"] * 4
    assert len(left(Choosing(nodes=1, most=2))) == 8


def test_the_scope_of_an_error_survives_its_record():
    from trainer.contract.errors import from_dict

    error = QuotaError("vCPUs are used up").ruling_out(Scope.ACCOUNT)

    back = from_dict(error.to_dict())

    assert (type(back), back.scope, str(back)) == (QuotaError, Scope.ACCOUNT, str(error))
    assert QuotaError("x").scope is Scope.REGION


def test_an_unknown_price_comes_last_and_is_not_within_a_cap():
    known, unknown = EVERYTHING[0].offer, EVERYTHING[1].offer
    unknown = dataclasses.replace(unknown, price_per_hour=None)

    assert sorted([unknown, known], key=lambda offer: offer.rank_price) == [known, unknown]
    assert unknown.rank_price > 1e9
    assert "an unknown price" in str(Choice(PROVIDER, unknown))


def test_the_zones_that_a_provider_names_come_next_for_that_kind():
    choosing = Choosing(1, 10)
    [first] = choosing.next(Market(list(EVERYTHING)))
    sold_out = CapacityError("sold out").pointing_to(["west-b", "nowhere"])

    choosing.failed(first, sold_out, "sold out")

    assert left(choosing)[:2] == [("small", "west-b"), ("small", "east-b")]


def test_what_is_refused_of_a_spot_machine_rules_out_no_other():
    usual = choice("small", "east", "east-a")
    spot = Choice(PROVIDER, dataclasses.replace(usual.offer, spot=True))
    choosing = Choosing(nodes=1, most=10)

    choosing.failed(spot, QuotaError("no").ruling_out(Scope.OFFER), "no")

    assert choosing.next(Market([spot, usual])) == [usual]
