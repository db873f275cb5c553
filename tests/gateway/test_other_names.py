"""Every variable that services like this one are set up by is obeyed, or answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from uuid import UUID

import pytest

from blocks.marks import Mark
from blocks.models import Offer
from blocks.providers.aws import AWS
from blocks.providers.azure import Azure
from blocks.providers.lambda_cloud import LambdaCloud
from blocks.providers.runpod import RunPod
from flows.reporting.platform import Platform
from flows.setup.secrets import secrets
from gateway.exits import Exit
from gateway.other_names import answers, answers_of_any_program
from tests.gateway.commanding import call_here
from trainer.contract.errors import ConfigError
from trainer.engine.gpu_share import allowed_part

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ada@home"
OFFER = Offer(
    provider="runpod",
    instance_type="NVIDIA L4",
    region="SECURE",
    price_per_hour=0.4,
    gpu_type="NVIDIA L4",
    gpu_count=1,
)


def order() -> str:
    """Return the keys that a pod lets in."""
    mark = Mark.of_run(UUID(int=1), 1)
    return str(RunPod(api_key="k" * 9)._order(OFFER, mark, "ssh-ed25519 OURS")["env"]["PUBLIC_KEY"])


def platform() -> str:
    """Return all that the reports are set up by."""
    found = Platform.of_environment()
    addresses = [(one.url, dict(one.headers)) for one in (found.metrics, found.alerts) if one]
    return str((addresses, found.job_id, found.user_id, found.model_name))


PLATFORM = {
    "METRICS_API_URL": "https://platform.example/metrics",
    "ALERT_API_URL": "https://platform.example/alerts",
    "JOB_TOKEN": "canary-token",
    "INTERNAL_API_KEY": "canary-internal",
    "USER_ID": "canary-user",
    "JOB_ID": "canary-job",
    "MODEL_NAME": "canary/model",
}
OBEYED: dict[str, tuple[str, Callable[[], object]]] = {
    "GPU_MEMORY_FRACTION": ("0.5", allowed_part),
    "RUNPOD_API_KEY": ("canary-key", lambda: RunPod()._key()),
    "RUNPOD_SSH_PUBLIC_KEY": (KEY, order),
    "LAMBDA_API_KEY": ("canary-key", lambda: LambdaCloud()._key()),
    "AWS_REGION": ("eu-canary-1", lambda: asyncio.run(AWS()._regions())),
    "AZURE_SUBSCRIPTION_ID": ("canary-subscription", lambda: Azure()._group()),
    "AZURE_RESOURCE_GROUP": ("canary-group", lambda: Azure(subscription_id="s")._group()),
    "HF_TOKEN": ("hf_canary", secrets),
    **{name: (value, platform) for name, value in PLATFORM.items()},
}
"""Name → a value, and what has to hold it then."""
ELSEWHERE = {
    "RUNPOD_GPU_TYPE": "tests/blocks/providers/runpod/test_runpod_hiring.py",
    "AWS_ACCESS_KEY_ID": "boto3's own chain; tests/blocks/providers/aws",
    "AWS_SECRET_ACCESS_KEY": "the same",
}
"""Names that are obeyed, with what proves it."""
NAMES = (
    # A training service with providers
    *("RUNPOD_API_KEY", "RUNPOD_SSH_PUBLIC_KEY", "RUNPOD_SSH_PRIVATE_KEY_PATH", "RUNPOD_GPU_TYPE"),
    *("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZURE_SSH_KEY_NAME"),
    *("LAMBDA_API_KEY", "LAMBDA_SSH_KEY_NAME"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"),
    # A platform that starts jobs on rented machines
    *("JOB_ID", "JOB_TOKEN", "USER_ID", "MODEL_NAME", "DATASET_URL", "METRICS_API_URL"),
    *("ALERT_API_URL", "INTERNAL_API_KEY", "NEXT_PUBLIC_SUPABASE_URL", "SUPABASE_SERVICE_KEY"),
    *("NEXT_PUBLIC_SUPABASE_ANON_KEY", "HF_TOKEN", "HF_REPO_NAME"),
    # A server for one computer with GPUs
    *("BACKEND_URL", "API_KEY", "MODELS_DIR", "DATASETS_DIR", "CHECKPOINTS_DIR", "LOGS_DIR"),
    *("GPU_MEMORY_FRACTION", "ENABLE_MIXED_PRECISION", "MAX_CONCURRENT_JOBS"),
    *("CHECKPOINT_INTERVAL_STEPS", "METRICS_REPORT_INTERVAL_STEPS"),
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_obeyed_or_answered(name, monkeypatch):
    if name in PLATFORM:  # they work together
        for other, value in PLATFORM.items():
            monkeypatch.setenv(other, value)
    value, holder = OBEYED.get(name, ("/app/keys/canary", None))
    monkeypatch.setenv(name, value)

    said = [*answers(), *answers_of_any_program()]

    if holder:
        assert value in str(holder())
        assert said == []
    elif name in ELSEWHERE:
        assert said == []
    else:
        [sentence] = said
        assert sentence.startswith(f"{name} is not used here: ")
        assert value not in sentence


def test_only_what_concerns_a_job_is_answered_when_it_starts(monkeypatch):
    monkeypatch.setenv("LAMBDA_SSH_KEY_NAME", "mine")
    monkeypatch.setenv("RUNPOD_SSH_PRIVATE_KEY_PATH", "/app/keys/runpod")
    monkeypatch.setenv("API_KEY", "of any program")

    assert answers(["local", "ssh"]) == []
    [sentence] = answers(["runpod/team", "ssh"])
    assert sentence.startswith("RUNPOD_SSH_PRIVATE_KEY_PATH is not used here: each pod gets")
    assert len(answers(["any"])) == 2


def test_validate_answers_once(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("LAMBDA_SSH_KEY_NAME", "mine")
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: j\nprovider: lambda\ntraining: {model: none/such, dataset: {path: none.jsonl}}\n"
    )

    done = call_here(capfd, "validate", str(job))

    assert done.returncode == Exit.BAD_INPUT
    assert done.stderr.count("LAMBDA_SSH_KEY_NAME is not used here") == 1
    assert "LAMBDA_SSH_KEY_NAME" not in done.stdout


@pytest.mark.parametrize("text", ["/home/ada/.ssh/id.pub", f"{KEY}\n{KEY}", "-----BEGIN KEY-----"])
def test_what_is_no_public_key_is_refused_without_being_quoted(monkeypatch, text):
    monkeypatch.setenv("RUNPOD_SSH_PUBLIC_KEY", text)

    with pytest.raises(ConfigError, match="RUNPOD_SSH_PUBLIC_KEY: is no public key") as e:
        order()

    assert text not in str(e.value)
    assert os.environ["RUNPOD_SSH_PUBLIC_KEY"] == text
