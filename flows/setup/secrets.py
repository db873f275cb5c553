"""The tokens that go along to a machine, by its environment and never in a file."""

from __future__ import annotations

import os

SECRETS = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)
"""The tokens that a trainer or a job's `setup` may need."""
ADDRESSES = (
    *("HF_ENDPOINT", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
)
"""Where they are valid."""


def secrets() -> dict[str, str]:
    """Return the tokens that are set here, as the environment of a command on the machine.

    An address goes along unless it is a file's: that one is on this computer.
    """
    given = {name: value for name in (*SECRETS, *ADDRESSES) if (value := os.environ.get(name))}
    tracking = given.get("MLFLOW_TRACKING_URI", "https:")
    if not tracking.startswith(("http:", "https:", "databricks")):
        del given["MLFLOW_TRACKING_URI"]
    return given
