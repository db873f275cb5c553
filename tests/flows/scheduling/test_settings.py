"""What a pool may be set to, and how a mistake in it is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from flows.scheduling.pool import HOUR, PoolGpu, PoolMachine, Strategy
from flows.scheduling.settings import (
    PoolSettings,
    assignments,
    changed,
    settings_of,
    slug,
    variable_of,
)
from trainer.contract.errors import ConfigError


def test_settings_by_hand_become_what_a_variable_holds():
    given = [
        *("strategy=fair_share", "gpus=[0, 1]", "max_wait=3d", "min_run=10m", "weights.ada=2"),
        *("quotas.vision.gpus=4", "quotas.vision.gpu_hours=100", "share_gpus=true"),
    ]
    value = changed(None, assignments(given), "p")
    assert value == {
        "strategy": "fair_share",
        "gpus": [0, 1],
        "share_gpus": True,
        "weights": {"ada": 2.0},
        "quotas": {"vision": {"gpus": 4, "gpu_hours": 100.0}},
    }  # the rest is as it would be anyway
    settings = settings_of(value, "p")
    assert (settings.strategy, settings.max_wait) == (Strategy.FAIR_SHARE, 72 * HOUR)
    assert changed(value, assignments(["gpus=", "quotas.vision.gpus=", "weights="]), "p") == {
        "strategy": "fair_share",
        "share_gpus": True,
        "quotas": {"vision": {"gpu_hours": 100.0}},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("strategy=random", "strategy = 'random': must be 'fifo', 'priority'"),
        ("max_concurrent_jobs=0", "max_concurrent_jobs = 0: must be greater than or equal to 1"),
        ("check_interval=0", "check_interval = 0: must be greater than or equal to 0.2"),
        ("check_interval=soon", "check_interval = 'soon': is no time: write it in seconds"),
        ("gpus=all", "gpus = 'all': must be a valid list"),
        ("max_vram_per_gpu=-1", "max_vram_per_gpu = -1: must be greater than 0"),
        ("max_system_ram=NaN", "max_system_ram = nan: must be a finite number"),
        ("half_life=0", "half_life = 0: must be greater than 0"),
        ("ageing=1e999", "ageing = inf: must be a finite number"),
        ("weights.ada=0", "weights.ada = 0: must be greater than 0"),
        ("weights=2", "weights = 2: must be a valid dictionary"),
        ("quotas.vision.gpus=-1", "quotas.vision.gpus = -1: must be greater than or equal to 0"),
        ("quotas.vision.gpu=1", "quotas.vision.gpu is not a field; did you mean gpus?"),
        ("quotas.vision=3", "quotas.vision = 3"),
        ("strategie=fifo", "strategie is not a field; did you mean strategy?"),
        ("strategy", "'strategy': is not KEY=VALUE"),
        ("=fifo", "'=fifo': is not KEY=VALUE"),
        ("quotas..gpus=1", "is not KEY=VALUE"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(given: str, message: str):
    with pytest.raises(ConfigError) as caught:
        changed({"gpus": [0]}, assignments([given]), "p")
    assert message in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["fifo", ["fifo"], {"strategy": "lifo"}])
def test_the_remedy_of_settings_is_the_command_that_sets_them(value: Any):
    with pytest.raises(ConfigError) as caught:
        settings_of(value, "p")
    assert "trainctl pool set p KEY=VALUE" in caught.value.suggestion


def test_gpus_that_no_machine_has_are_found():
    machines = [PoolMachine(name="m", gpus=(PoolGpu(uuid="GPU-a", vram_gb=1.0, index=0),))]
    for given, absent in (([0, "0", "GPU-a"], []), ([0, 7, "GPU-b"], [7, "GPU-b"]), (None, [])):
        assert PoolSettings(gpus=given).absent(machines) == absent


@pytest.mark.parametrize("value", ["fifo", 3, [], {"strategy": None}, {"gpus": {"a": 1}}])
def test_whatever_somebody_wrote_into_the_variable_is_refused_in_words(value: Any):
    with pytest.raises(ConfigError, match="settings of pool p"):
        settings_of(value, "p")


def test_limits_leave_of_a_machine_what_jobs_may_use():
    gpus = tuple(PoolGpu(uuid=f"GPU-{n}", vram_gb=24.0, index=n) for n in range(3))
    host = PoolMachine(name="host", gpus=gpus, ram_gb=64, threads=16)
    settings = PoolSettings(
        gpus=[0, "GPU-2"], max_vram_per_gpu=16, max_system_ram=32, max_cpu_threads=99, max_disk=100
    )
    limited = settings.limited(host)
    assert [(gpu.uuid, gpu.vram_gb) for gpu in limited.gpus] == [("GPU-0", 16), ("GPU-2", 16)]
    assert (limited.ram_gb, limited.threads, limited.disk_gb) == (32, 16, 100)


def test_every_pool_has_a_variable_of_its_own():
    assert variable_of("local-gpu") == "training_orchestrator_pool_local-gpu"
    names = ["local-gpu", "local_gpu", "local gpu", "Local-GPU", "ü", "ö", "a.b", "a b", "x" * 300]
    slugs = {slug(name) for name in names}
    assert len(slugs) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]+", one) for one in slugs)
