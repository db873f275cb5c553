"""A token by which a training reports its own job to our service, and the addresses for that.

The worker's key stays here: what the machine gets is good for one job, until that is over.
"""

from __future__ import annotations

import os

import httpx

from blocks.providers.connections import new_client
from blocks.secrets.reading import secret
from flows.logger import logger
from flows.scheduling.labels import user_name
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError
from trainer.contract.redaction import remember

URL, KEY = "TRAINING_ORCHESTRATOR_URL", "TRAINING_ORCHESTRATOR_API_KEY"
ASK_SECONDS = 10.0
TAKEN = ("METRICS_API_URL", "JOB_TOKEN")
"""Where one of these is set, trainings report to somebody else."""


async def reporting_variables(job: TrainingJob, run_id: str) -> dict[str, str]:
    """Return the variables of document 003 for a job's training; none where no service is named.

    A service that does not answer costs the job nothing but the token: that is logged.

    Args:
        job: what is trained.
        run_id: of its flow run.
    """
    url = os.environ.get(URL, "").strip().rstrip("/")
    # Our own trainer writes files, and they are followed.
    if not url or job.training.trainer == "builtin" or any(map(os.environ.get, TAKEN)):
        return {}
    try:
        token = await _asked(url, run_id)
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, OrchestratorError) as error:
        logger().warning(
            "the training gets no token to report by: %s gave none (%s). It trains all the same.",
            URL,
            type(error).__name__,
        )
        return {}
    return {
        "JOB_ID": run_id,
        "JOB_TOKEN": token,
        "USER_ID": user_name(),
        "MODEL_NAME": job.training.model or job.name,
        "METRICS_API_URL": f"{url}/api/training/local/metrics",
        "ALERT_API_URL": f"{url}/api/alerts/trigger",
        # By this name document 003's trainer sends what it has as X-API-Key.
        "INTERNAL_API_KEY": token,
    }


async def _asked(url: str, run_id: str) -> str:
    key = secret(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with new_client(ASK_SECONDS) as client:
        answer = await client.post(
            f"{url}/api/access/job-tokens", json={"job_id": run_id}, headers=headers
        )
        answer.raise_for_status()
        return remember(str(answer.json()["token"]))
