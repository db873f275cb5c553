from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest

from blocks.allotted import allotted
from blocks.providers.local import Local
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, GpusBusy
from trainer.contract.gpu_locks import Allocation, Holder, take


@pytest.fixture
def provider(tmp_path):
    return Local(home=tmp_path / "home")


async def offered(provider, **resources):
    return [set(offer.gpu_ids) for offer in await provider.offers(Resources(**resources), Limits())]


@contextmanager
def held(*allocations):
    with ExitStack() as stack:
        for allocation in allocations:
            stack.enter_context(take(allocation, Holder.here(name="another")))
        yield


@contextmanager
def given(allocation):
    token = allotted.set(allocation)
    try:
        yield
    finally:
        allotted.reset(token)


@pytest.mark.usefixtures("pretended_gpus")
async def test_gpus_that_others_have_are_passed_over(provider):
    with held(Allocation(uuids=("GPU-0", "GPU-3"))):
        assert await offered(provider) == [{"GPU-1"}, {"GPU-2"}]
        assert await offered(provider, gpu_count=2) == [{"GPU-1", "GPU-2"}]
        with pytest.raises(GpusBusy, match=r"GPU 0 .* is taken by another of .*; GPU 3"):
            await provider.offers(Resources(gpu_count=3), Limits())
        with pytest.raises(CapacityError, match="asks for 5 GPUs"):  # not even once they are free
            await provider.offers(Resources(gpu_count=5), Limits())


@pytest.mark.usefixtures("pretended_gpus")
async def test_without_a_free_gpu_a_job_waits_and_does_not_train_on_the_cpu(provider):
    with held(Allocation(uuids=("GPU-0", "GPU-1", "GPU-2", "GPU-3"))), pytest.raises(GpusBusy):
        await provider.offers(Resources(), Limits())


async def test_sick_gpus_are_nobodys(provider, pretended_gpus):
    for number in range(3):
        pretended_gpus.change(f"GPU-{number}", sick="it is lost")
    assert await offered(provider) == [{"GPU-3"}]

    pretended_gpus.change("GPU-3", sick="the driver reported Xid 48")
    with pytest.raises(CapacityError, match="out of use: the driver reported Xid 48") as caught:
        await provider.offers(Resources(), Limits())
    assert not isinstance(caught.value, GpusBusy)


async def test_a_gpu_with_a_foreign_process_is_kept_away_from(provider, pretended_gpus):
    pretended_gpus.set_up(2)
    pretended_gpus.change("GPU-0", processes=[{"pid": 7, "name": "ollama", "used_gb": 5}])
    assert await offered(provider) == [{"GPU-1"}]
    # Who says how much is enough may train beside it, if there is nothing better.
    assert await offered(provider, min_vram_gb=8) == [{"GPU-1"}, {"GPU-0"}]

    pretended_gpus.change("GPU-1", processes=[{"pid": 8, "name": "python", "used_gb": 1}])
    with pytest.raises(GpusBusy, match=r"ollama of somebody \(7, 5.0 GiB\)") as caught:
        await provider.offers(Resources(), Limits())
    assert "set resources.min_vram_gb" in caught.value.suggestion


@pytest.mark.usefixtures("pretended_gpus")
async def test_a_run_has_what_its_worker_gave_to_it(provider):
    with given(Allocation(uuids=("GPU-2", "GPU-3"))):
        assert await offered(provider, gpu_count=2) == [{"GPU-2", "GPU-3"}]
        assert await offered(provider) == [{"GPU-2"}, {"GPU-3"}]


@pytest.mark.usefixtures("pretended_gpus")
async def test_a_share_is_had_where_enough_is_left(provider):
    def share(gib):
        return Allocation(uuids=("GPU-0",), share_gb=gib, vram_gb=24)

    with held(share(10)):
        with given(share(14)):
            assert await offered(provider) == [{"GPU-0"}]
        with given(share(15)), pytest.raises(GpusBusy, match="10 GiB of it"):
            await provider.offers(Resources(), Limits())
        assert {"GPU-0"} not in await offered(provider)  # who was given no share wants all of it


async def test_gpus_of_one_island_train_together(provider, pretended_gpus):
    for number, island in enumerate("abab"):
        pretended_gpus.change(f"GPU-{number}", island=island)

    assert await offered(provider, gpu_count=2) == [{"GPU-0", "GPU-2"}, {"GPU-1", "GPU-3"}]
    with held(Allocation(uuids=("GPU-0",))):
        assert (await offered(provider, gpu_count=2))[0] == {"GPU-1", "GPU-3"}
        assert await offered(provider, gpu_count=3) == [{"GPU-1", "GPU-2", "GPU-3"}]


async def test_parts_of_a_divided_gpu_train_one_by_one(provider, pretended_gpus):
    pretended_gpus.set_up(2, parent="GPU-whole")

    assert await offered(provider) == [{"GPU-0"}, {"GPU-1"}]
    with pytest.raises(CapacityError):
        await provider.offers(Resources(gpu_count=2), Limits())


async def test_a_run_whose_given_gpu_broke_may_have_any_other(provider, pretended_gpus):
    pretended_gpus.change("GPU-2", sick="it is lost")

    with given(Allocation(uuids=("GPU-2",))), held(Allocation(uuids=("GPU-0",))):
        assert await offered(provider) == [{"GPU-1"}, {"GPU-3"}]
