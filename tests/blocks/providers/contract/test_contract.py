"""What every provider promises, whatever its API is like; see docs/adding-a-provider.md."""

from __future__ import annotations

import asyncio

import pytest

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus
from blocks.providers import lost_answer
from blocks.providers.absence import found_or_absent
from blocks.providers.api import Unanswered
from flows.renting.giving_back import Ending, until_gone
from tests.blocks.providers.contract.conftest import CLOUDS, EVERYWHERE, Case
from tests.blocks.providers.rented_account import mark
from tests.clouds.cloud import Fault
from tests.waiting import until
from trainer.config import Limits
from trainer.contract.errors import (
    CapacityError,
    ConnectionLost,
    CredentialsError,
    OrchestratorError,
    ProviderError,
    RateLimited,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE0 test"
CREATE = (
    r"(/pods|/machines|/launch|/asks/\d+/|/zones/[^/]+/instances|/RunInstances|/CreateTrainingJob"
    r"|/virtualMachines/[^/]+)$"
)


async def launched(case: Case, own: Mark | None = None):
    return await case.provider.launch(await case.offer(), own or mark(), KEY)


async def gone(case: Case, own: Mark, id: str = "") -> None:
    ending, _ = await until_gone(case.provider, own, id)
    assert ending is Ending.GONE


@EVERYWHERE
async def test_offers_are_machines_that_can_be_hired_cheapest_first(case):
    either = case.resources.model_copy(update={"spot": None})
    offers = await case.provider.offers(either, Limits())

    assert offers
    assert [o.rank_price for o in offers] == sorted(o.rank_price for o in offers)
    assert {o.provider for o in offers} == {case.provider.provider_name}
    assert all(o.instance_type and o.region for o in offers)
    # `max_offers` counts kinds by their ids: the zones of one are not as many kinds.
    assert not [o.id for o in offers if o.zone and o.zone in o.id]


@CLOUDS
async def test_nothing_is_offered_above_the_cap(case):
    cheapest = (await case.offer()).rank_price

    with pytest.raises(CapacityError):
        await case.provider.offers(case.resources, Limits(max_price_per_hour=cheapest / 2))


@pytest.mark.parametrize("case", ["aws", "azure", "gcp", "sagemaker"], indirect=True)
async def test_a_region_that_is_not_set_up_is_named(case):
    far = case.resources.model_copy(update={"regions": ["mars"]})

    with pytest.raises(CapacityError, match=r"resources.regions = \['mars'\]: .* is set up for"):
        await case.provider.offers(far, Limits())


@EVERYWHERE
async def test_what_is_hired_bears_its_mark_and_is_found_by_it_and_by_its_id(case):
    instance = await launched(case)

    assert (instance.mark, instance.status.is_billing) == (mark(), True)
    found = await until(lambda: case.provider.find(mark()))
    described = await case.provider.describe(instance.id)
    [listed] = [one for one in await case.provider.instances() if one.mark == mark()]
    assert {found.id, described.id, listed.id} == {instance.id}
    assert described.mark == mark()
    assert described.instance_type == instance.instance_type
    assert described.price_per_hour != 0 or not case.cloud
    # Whoever adopts it knows what else is billed of it.
    assert described.extras == instance.extras == (await case.offer()).extras
    await gone(case, mark(), instance.id)


@EVERYWHERE
async def test_a_mark_that_is_borne_hires_nothing_more(case):
    first = await launched(case)

    again = await launched(case)

    assert again.id == first.id
    assert len(await case.provider.instances()) == 1
    assert case.alive() in (None, [first.id])
    await gone(case, mark())


@CLOUDS
@pytest.mark.parametrize(
    "kind",
    [
        "commit_then_drop",
        "truncated",
        pytest.param("commit_then_status", marks=pytest.mark.thorough),
        pytest.param("empty", marks=pytest.mark.thorough),
    ],
)
async def test_an_order_without_a_usable_answer_is_adopted_and_never_repeated(case, kind):
    case.cloud.list_lag = 0.3
    case.cloud.faults.add(Fault(kind=kind, path=CREATE, method="POST", status=502))
    case.cloud.faults.add(Fault(kind=kind, path=CREATE, method="PUT", status=502))

    instance = await launched(case)

    assert case.alive() == [instance.id]
    await gone(case, mark(), instance.id)
    assert case.alive() == []


@CLOUDS
@pytest.mark.parametrize("error", [ProviderError("odd"), ConnectionLost("away")], ids=str)
async def test_an_order_of_which_nothing_can_be_learned_may_have_made_a_machine(
    case, monkeypatch, error
):
    async def cannot_be_asked(*_):
        raise error

    monkeypatch.setattr(lost_answer, "found_or_absent", cannot_be_asked)
    for method in ("POST", "PUT"):
        case.cloud.faults.add(Fault(kind="commit_then_drop", path=CREATE, method=method))

    with pytest.raises(Unanswered):
        await launched(case)


@CLOUDS
async def test_what_came_of_an_order_is_asked_for_as_long_as_the_provider_asks_to_wait(
    case, monkeypatch
):
    """Else it would be ordered again, and be "certainly nothing" if the provider is away by then."""
    asked, ask = [], lost_answer.found_or_absent

    async def limited(*what):
        asked.append(what)
        if len(asked) < 3:
            raise RateLimited("asks to wait")
        return await ask(*what)

    monkeypatch.setattr(lost_answer, "found_or_absent", limited)
    monkeypatch.setattr(lost_answer, "TURN_SECONDS", 0.01)
    for method in ("POST", "PUT"):
        case.cloud.faults.add(Fault(kind="commit_then_drop", path=CREATE, method=method))

    instance = await launched(case)

    assert case.alive() == [instance.id]
    assert len(asked) == 3


@CLOUDS
async def test_an_order_of_which_nothing_came_is_a_lack_of_capacity(case):
    for method in ("POST", "PUT"):
        case.cloud.faults.add(Fault(kind="drop", path=CREATE, method=method))

    with pytest.raises(CapacityError, match="Nothing came of it"):
        await launched(case)

    assert case.alive() == []


@CLOUDS
async def test_what_is_sold_out_is_a_lack_of_capacity(case):
    offer = await case.offer()
    case.cloud.no_capacity = True

    with pytest.raises(CapacityError):
        await what_comes_of(case, await case.provider.launch(offer, mark(), KEY))
    assert await case.provider.instances() == []
    assert case.left_over() == []


async def what_comes_of(case: Case, ordered: Instance) -> None:
    """Raise the failure of an order that the provider accepts, and fails afterwards."""
    while (now := await case.provider.describe(ordered.id)).failure is None:
        assert now.status is InstanceStatus.PROVISIONING
        await asyncio.sleep(0.02)
    raise now.failure


@CLOUDS
async def test_a_machine_passes_from_one_mark_to_another_and_back(case):
    instance = await launched(case)
    kept = Mark.kept(2_000_000_000, "0badcafe")

    assert await case.provider.remark(instance.id, kept)

    assert (await case.provider.find(kept)).id == instance.id
    assert await case.provider.find(mark()) is None
    assert (await case.provider.describe(instance.id)).mark == kept
    assert await case.provider.remark(instance.id, mark(2))
    assert (await case.provider.find(mark(2))).id == instance.id
    await gone(case, mark(2), instance.id)


@CLOUDS
async def test_whoever_means_another_mark_ends_nothing(case):
    instance = await launched(case)
    await case.provider.remark(instance.id, mark(2))

    ending, seen = await until_gone(case.provider, mark(), instance.id)

    assert (ending, seen.mark) == (Ending.ANOTHERS, mark(2))
    assert case.alive() == [instance.id]
    await gone(case, mark(2), instance.id)


@EVERYWHERE
async def test_it_is_gone_when_the_provider_says_so_and_may_be_ended_again(case):
    instance = await launched(case)

    await gone(case, mark(), instance.id)

    assert case.left_over() == []  # not only the machine: an instance is a bundle
    ended = await case.provider.describe(instance.id)
    assert ended.status in {InstanceStatus.ABSENT, InstanceStatus.GONE}
    await case.provider.terminate(instance.id)
    await gone(case, mark(), instance.id)
    assert case.alive() in (None, [])
    assert case.left_over() == []


@CLOUDS
async def test_an_end_that_is_ignored_or_refused_is_asked_for_again(case, monkeypatch):
    monkeypatch.setattr("flows.renting.giving_back.AGAIN_SECONDS", 0.2)
    instance = await launched(case)
    case.cloud.terminate_ignored = case.cloud.terminate_refuses = 1

    await gone(case, mark(), instance.id)

    assert case.alive() == []


@CLOUDS
async def test_an_order_that_comes_true_late_is_ended_by_its_mark_alone(case):
    case.cloud.list_lag = case.cloud.look_lag = 0.4
    await launched(case)

    await gone(case, mark())

    assert case.alive() == []


@CLOUDS
async def test_an_id_that_nobody_has_is_absent_and_no_error(case):
    nobody = "0" * 32 if case.provider.provider_name == "lambda" else "31999999"

    assert (await case.provider.describe(nobody)).status is InstanceStatus.ABSENT
    assert await case.provider.terminate(nobody) is False
    assert await case.provider.remark(nobody, mark()) is False
    assert await found_or_absent(case.provider, mark(9), nobody) is None


@CLOUDS
async def test_other_peoples_machines_bear_no_mark_of_ours(case):
    instance = await launched(case)
    for name in ("web-1", "to-deadbeef-" + "0" * 32 + "-1", f"{mark()}-copy", ""):
        case.cloud.account[instance.id].name = name

        [other] = await case.provider.instances()

        assert other.mark is None


@CLOUDS
async def test_a_machine_that_was_taken_back_is_lost_and_still_to_be_ended(case):
    instance = await launched(case)
    await until(lambda: case.cloud.account[instance.id].status == case.cloud.states[-1][0])
    case.cloud.preempt(instance.id)

    taken = await case.provider.describe(instance.id)

    assert (taken.status, taken.status.is_billing) == (InstanceStatus.LOST, True)
    await gone(case, mark(), instance.id)


@CLOUDS
async def test_a_word_that_nobody_knows_is_billed(case):
    instance = await launched(case)
    case.cloud.unknown_status = "dreaming"

    assert (await case.provider.describe(instance.id)).status.is_billing
    case.cloud.unknown_status = None
    await gone(case, mark(), instance.id)


@CLOUDS
async def test_a_revoked_key_is_said_by_every_call(case):
    offer, instance = await case.offer(), await launched(case)
    case.cloud.expired = True

    for call in (
        lambda: case.provider.check(),
        lambda: case.provider.find(mark()),
        lambda: case.provider.describe(instance.id),
        lambda: case.provider.terminate(instance.id),
        lambda: case.provider.remark(instance.id, mark(2)),
        lambda: case.provider.launch(offer, mark(3), KEY),
    ):
        with pytest.raises(CredentialsError) as caught:
            await call()
        assert case.cloud.key not in str(caught.value)


@CLOUDS
async def test_an_api_that_is_away_for_a_moment_changes_nothing(case, monkeypatch):
    monkeypatch.setattr("blocks.providers.api.PAUSES", (0.01, 0.02))
    instance = await launched(case)
    for fault in ("drop", "html", "status"):
        case.cloud.faults.add(Fault(kind=fault, method="GET", status=503))

        found = await case.provider.describe(instance.id)

        assert found.id == instance.id


@CLOUDS
async def test_many_who_ask_at_once_get_one_machine_each(case):
    offer = await case.offer()

    hired = await asyncio.gather(
        *(case.provider.launch(offer, mark(n), KEY) for n in range(1, 4)), return_exceptions=True
    )

    machines = [one for one in hired if not isinstance(one, OrchestratorError)]
    assert len({one.id for one in machines}) == len(machines) >= 1
    assert sorted(case.alive()) == sorted(one.id for one in machines)
