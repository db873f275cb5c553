import dataclasses
import json
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus, Offer

TEXT = st.text(max_size=20)
MONEY = st.floats(min_value=0, max_value=1e6)

OFFERS = st.builds(
    Offer,
    provider=TEXT,
    instance_type=TEXT,
    region=TEXT,
    price_per_hour=MONEY,
    spot=st.booleans(),
    gpu_type=st.none() | TEXT,
    gpu_count=st.integers(0, 8),
    gpu_ids=st.lists(TEXT).map(tuple),
    vram_gb=MONEY,
    disk_gb=st.none() | MONEY,
    ram_gb=st.none() | MONEY,
    storage_gb=MONEY,
    storage_price=MONEY,
    beside_per_hour=MONEY,
    traffic_price=MONEY,
    interruptions_per_hour=st.none() | MONEY,
)
INSTANCES = st.builds(
    Instance,
    provider=TEXT,
    id=TEXT,
    mark=st.none() | st.builds(Mark.of_run, st.uuids(), st.integers(1, 9999), st.integers(0, 127)),
    status=st.sampled_from(InstanceStatus),
    address=TEXT,
    price_per_hour=MONEY,
    workspace=TEXT,
    gpu_type=st.none() | TEXT,
    gpu_ids=st.lists(TEXT).map(tuple),
    gpu_count=st.integers(0, 8),
)


@given(OFFERS | INSTANCES)
def test_offers_and_instances_come_back_equal_from_plain_json(noun):
    record = noun.to_dict()

    back = type(noun).from_dict(json.loads(json.dumps(record)))

    assert back == noun
    assert back.to_dict() == record == json.loads(json.dumps(record))
    assert hash(back) == hash(noun)


def test_what_is_billed_beside_a_machine_goes_with_it_and_counts_when_offers_are_compared():
    offer = Offer(
        provider="p",
        instance_type="t",
        region="r",
        price_per_hour=0.5,
        storage_gb=100,
        storage_price=0.073,
        beside_per_hour=0.005,
        traffic_price=0.09,
    )
    instance = offer.as_instance("id", mark=None)

    assert offer.rank_price == offer.whole_per_hour == pytest.approx(0.5 + 0.01 + 0.005)
    assert instance.extras == offer.extras == instance.as_offer().extras
    assert dataclasses.replace(offer, price_per_hour=None).whole_per_hour is None


def test_everything_that_is_not_certainly_gone_is_billing():
    billing = {status for status in InstanceStatus if status.is_billing}

    assert billing == set(InstanceStatus) - {InstanceStatus.GONE}


def test_a_word_that_nobody_knows_is_unknown_and_billing():
    status = InstanceStatus("EXITED_MAYBE")

    assert status is InstanceStatus.UNKNOWN
    assert status.is_billing


def test_a_record_of_a_newer_version_can_be_read_and_a_torn_one_not():
    record = Instance(provider="p", id="i", mark=None, status=InstanceStatus.RUNNING).to_dict()

    assert Instance.from_dict({**record, "colour": "red"}).id == "i"
    del record["status"]
    with pytest.raises(TypeError, match="status"):
        Instance.from_dict(record)


def test_nouns_cannot_be_changed():
    offer = Offer(provider="p", instance_type="t", region="r", price_per_hour=1.0)

    with pytest.raises(FrozenInstanceError):
        offer.price_per_hour = 2.0
