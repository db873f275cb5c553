"""Training from Python: `TrainingOrchestrator`, and the same with `await`.

    from gateway.client import TrainingConfig, TrainingOrchestrator

    with TrainingOrchestrator("https://jobs.example.org", key="to_…") as orchestrator:
        orchestrator.create_job(TrainingConfig(job_id="first", model_name="…", dataset_path="…"))
        orchestrator.start_training("first", provider="runpod")

Without an address the service is not needed: what it would do is done in this process.
"""

from gateway.client.asynchronous import AsyncTrainingOrchestrator
from gateway.client.blocking import TrainingOrchestrator
from gateway.client.models import AskedJob as TrainingConfig
from gateway.client.models import DownloadedArtifact as ArtifactInfo
from gateway.client.models import JobRecord as TrainingJob
from gateway.client.refusals import (
    JobNotFound,
    NotPermitted,
    RequestRejected,
    ServiceFailed,
    ServiceUnreachable,
)
from trainer.contract.job_directory import JobState as TrainingState

__all__ = [
    "ArtifactInfo",
    "AsyncTrainingOrchestrator",
    "JobNotFound",
    "NotPermitted",
    "RequestRejected",
    "ServiceFailed",
    "ServiceUnreachable",
    "TrainingConfig",
    "TrainingJob",
    "TrainingOrchestrator",
    "TrainingState",
]
