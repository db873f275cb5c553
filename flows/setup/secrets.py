"""The tokens that a machine gets, in the environment of a command and never in a file."""

from __future__ import annotations

import os
from collections.abc import Iterable

SECRETS = (
    *("HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)
"""The tokens that a trainer or a job's `setup` may need, beside `HF_TOKEN`."""
ADDRESSES = (
    *("HF_ENDPOINT", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
)
"""The services and projects that the tokens are for."""


def secrets(also: Iterable[str] = ()) -> dict[str, str]:
    """Return the tokens that are set here, as the environment of a command on the machine.

    Args:
        also: further variables that the job itself names.

    The Hub's is the one that `hf auth login` has stored, where the environment has none, unless
    HF_HUB_DISABLE_IMPLICIT_TOKEN says that it goes nowhere by itself. Addresses are included, except one of a file or database of this computer.
    """
    # A third of a second, for those who train elsewhere.
    from huggingface_hub import constants, get_token

    # An explicit list, not the whole environment: cloud keys must never reach a rented machine.
    given = {
        name: value for name in (*SECRETS, *ADDRESSES, *also) if (value := os.environ.get(name))
    }
    own = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if (own or not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN) and (token := get_token()):
        given["HF_TOKEN"] = token
    tracking = given.get("MLFLOW_TRACKING_URI", "https:")
    if not tracking.startswith(("http:", "https:", "databricks")):
        del given["MLFLOW_TRACKING_URI"]
    return given
