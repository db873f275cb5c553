"""This computer as its pool sees it, with pretended GPUs and real locks."""

from __future__ import annotations

from deployments.this_machine import this_machine
from flows.scheduling.policy import decide
from flows.scheduling.pool import Demand, ExplainWait, Job, Policy
from tests.pretended_gpus import PretendedGpus
from trainer.contract.gpu_locks import Allocation, Holder, take


async def test_a_gpu_is_taken_by_whoever_is_no_run_of_the_pool(pretended_gpus: PretendedGpus):
    first, second, third, fourth = pretended_gpus.set_up(4, name="NVIDIA L4")
    pretended_gpus.change(third, sick="Xid 79")
    pretended_gpus.change(fourth, processes=[{"pid": 1, "name": "blender", "user": "bob"}])
    mine, other = Holder(run="mine"), Holder(run="other", name="exec", user="ada")
    with take(Allocation(uuids=(first,)), mine), take(Allocation(uuids=(second,)), other):
        machine = await this_machine({"mine": [first]})
        taken = {gpu.uuid: gpu.taken for gpu in machine.gpus}
        assert taken[first] == ""
        assert "ada" in taken[second]
        assert taken[third] == "out of use: Xid 79"
        assert "blender of bob" in taken[fourth]
        assert (machine.gpus[0].kind, machine.gpus[0].vram_gb, machine.total) == (
            "NVIDIA L4",
            24,
            4,
        )
        # A run that has another GPU than it was given has taken that one.
        assert (await this_machine({"mine": [second]})).gpus[0].taken != ""

        job = Job(id="both", submitted=0.0, demand=Demand(gpus=2))
        [waits] = decide([job], [machine], [], [], 0.0, Policy())
        assert isinstance(waits, ExplainWait)
        assert waits.reason.startswith(f"is next, and waits for 2 GPUs of one machine; {second} of")
    assert {gpu.taken for gpu in (await this_machine({})).gpus[:2]} == {""}
