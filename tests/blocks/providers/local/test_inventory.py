from __future__ import annotations

import os

import pytest

from blocks.providers.local.gpus import gpus, inventory
from trainer.contract.errors import ConfigError
from trainer.contract.gpu_files import mark_sick
from trainer.contract.gpu_locks import Allocation, Holder, take


def test_the_pretended_gpus_are_those_of_the_computer(pretended_gpus):
    pretended_gpus.set_up(2, name="NVIDIA L4", island="numa 0", utilisation=7.5)

    assert [(gpu.index, gpu.uuid, gpu.name, gpu.free_gb) for gpu in inventory()] == [
        (0, "GPU-0", "NVIDIA L4", 24),
        (1, "GPU-1", "NVIDIA L4", 24),
    ]


def test_the_inventory_says_who_has_a_gpu_and_why_it_cannot_be_had(pretended_gpus):
    pretended_gpus.change(
        "GPU-1", processes=[{"pid": 7, "name": "ollama", "user": "ada", "used_gb": 5}]
    )
    pretended_gpus.change("GPU-2", sick="it is lost")
    mark_sick("GPU-3", "the driver reported Xid 79")

    with take(Allocation(uuids=("GPU-0",)), Holder.here(name="mine")):
        found = inventory()

    assert found[0].why_not.startswith("taken by mine of ")
    assert found[1].why_not == "in use by ollama of ada (7, 5.0 GiB), without having taken it"
    assert found[1].free_gb == 19
    assert found[2].why_not == "out of use: it is lost"
    assert found[3].why_not == "out of use: the driver reported Xid 79"
    assert [gpu.uuid for gpu in gpus()] == ["GPU-0", "GPU-1"]


def test_a_process_of_another_user_is_foreign_on_a_gpu_that_is_held_too(pretended_gpus):
    with take(Allocation(uuids=("GPU-0",)), Holder.here(name="mine")) as held:
        user = held.holder.user
        pretended_gpus.change("GPU-0", processes=[{"pid": os.getpid(), "user": user}, {"pid": 7}])
        assert inventory()[0].foreign == ()

        pretended_gpus.change("GPU-0", processes=[{"pid": 7, "user": f"{user}-not"}])
        assert [one.pid for one in inventory()[0].foreign] == [7]


def test_a_lost_gpu_does_not_hide_the_others(pretended_gpus):
    pretended_gpus.file.write_text('{"gpus": [{}, {"uuid": "GPU-1"}]}')

    assert [(gpu.uuid, gpu.why_not) for gpu in inventory()] == [
        ("", "out of use: it is lost"),
        ("GPU-1", ""),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "JSON"),
        ("[]", "TypeError"),
        ('{"gpus": 7}', "TypeError"),
        ('{"gpus": [7]}', "TypeError"),
        ('{"gpus": [{"uid": "GPU-1"}]}', "a GPU has no uid"),
        ('{"gpus": [{"uuid": "../x"}]}', "is not a GPU"),
        ('{"gpus": [{"uuid": "GPU-1"}, {"uuid": "GPU-1"}]}', "two have one uuid"),
        ('{"gpus": [{"uuid": "GPU-1", "processes": [{"id": 7}]}]}', "a process has no id"),
    ],
)
def test_a_file_that_describes_no_gpus_is_refused_by_name(pretended_gpus, text, why):
    pretended_gpus.file.write_text(text)

    with pytest.raises(ConfigError, match=f"TRAINING_ORCHESTRATOR_PRETENDED_GPUS names .*{why}"):
        inventory()
