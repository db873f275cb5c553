from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainer.contract.files import replace_json
from trainer.contract.job_directory import JobDirectory
from trainer.engine.gpu_share import keep_to_share

pytestmark = pytest.mark.xdist_group("torch")


@pytest.fixture
def fractions(monkeypatch):
    """Let there be a GPU of 24 GiB, and note which part of it torch is to keep to."""
    noted = []
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    facts = SimpleNamespace(total_memory=24 << 30)
    monkeypatch.setattr(cuda, "get_device_properties", lambda _: facts)
    monkeypatch.setattr(cuda, "set_per_process_memory_fraction", lambda part, _: noted.append(part))
    return noted


@pytest.mark.parametrize(("share", "most"), [(10, 9.5), (0.6, 0.3), (24, 23.5)])
def test_torch_keeps_to_the_share_of_the_job(tmp_path, fractions, share, most):
    job = JobDirectory(tmp_path)
    replace_json(job.gpus, {"uuids": ["GPU-0"], "share_gb": share, "vram_gb": 24})

    assert keep_to_share(job) == most
    assert fractions == [most / 24]


def test_a_job_with_a_whole_gpu_has_all_of_it(tmp_path, fractions):
    job = JobDirectory(tmp_path)
    assert keep_to_share(job) is None
    replace_json(job.gpus, {"uuids": ["GPU-0"], "share_gb": None, "vram_gb": 0.0})

    assert keep_to_share(job) is None
    assert fractions == []


@pytest.mark.parametrize(("share", "most"), [(None, 12.0), (10, 9.5), (20, 12.0)])
def test_torch_keeps_to_the_part_of_a_gpu_that_the_environment_allows(
    tmp_path, fractions, monkeypatch, share, most
):
    monkeypatch.setenv("GPU_MEMORY_FRACTION", "0.5")
    job = JobDirectory(tmp_path)
    replace_json(job.gpus, {"uuids": ["GPU-0"], "share_gb": share, "vram_gb": 24})

    assert keep_to_share(job) == most
    assert fractions == [most / 24]
