"""The tokens that a machine gets, in the environment of a command and never in a file."""

from __future__ import annotations

import os
from collections.abc import Iterable

from blocks.secrets.reading import is_address, is_set, secret
from trainer.config import TrainingJob
from trainer.contract.redaction import remember, remember_variables

HUB = "HF_TOKEN"
SECRETS = (
    *("HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"),
)
"""The tokens that a trainer or a job's `setup` may need, beside `HF_TOKEN`."""
ADDRESSES = (
    *("HF_ENDPOINT", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_EXPERIMENT_NAME"),
)
"""The services and projects that the tokens are for."""


def secrets(also: Iterable[str] = ()) -> dict[str, str]:
    """Return the tokens that are set here, as the environment of a command on the machine.

    Args:
        also: further variables that the job itself names.

    The Hub's is the one that `hf auth login` has stored, where the environment has none, unless
    HF_HUB_DISABLE_IMPLICIT_TOKEN says that it goes nowhere by itself. Addresses are included, except one of a file or database of this computer.

    Raises:
        OrchestratorError: one cannot be read where it is kept; see `blocks.secrets.reading.secret`.
    """
    # A third of a second, for those who train elsewhere.
    from huggingface_hub import constants, get_token

    # An explicit list, not the whole environment: cloud keys must never reach a rented machine.
    given = {name: value for name in ADDRESSES if (value := os.environ.get(name))}
    given |= {name: value for name in (*SECRETS, *also) if (value := secret(name))}
    own = secret(HUB) or given.get("HUGGING_FACE_HUB_TOKEN")
    stored = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token := own or stored:
        given[HUB] = remember(token)
    tracking = given.get("MLFLOW_TRACKING_URI", "https:")
    if not tracking.startswith(("http:", "https:", "databricks")):
        del given["MLFLOW_TRACKING_URI"]
    return given


def named_in(job: TrainingJob) -> list[str]:
    """Return the variables of secrets that a job itself names."""
    judge = job.training.reward_judge
    return [judge.api_key_variable] if judge and judge.api_key_variable else []


def kept_elsewhere(also: Iterable[str] = ()) -> dict[str, str]:
    """Return the tokens that stand in a file or a vault, and not in the environment itself.

    Args:
        also: see `secrets`.

    Raises:
        OrchestratorError: see `secrets`.
    """
    return {
        name: secret(name)
        for name in (HUB, *SECRETS, *also)
        if is_set(name) and (not (text := os.environ.get(name, "").strip()) or is_address(text))
    }


def have_tokens(also: Iterable[str] = ()) -> None:
    """Put the tokens into the environment of this process, for the libraries that look there.

    Args:
        also: see `secrets`.

    Raises:
        OrchestratorError: see `secrets`.
    """
    also = list(also)
    os.environ.update(kept_elsewhere(also))
    remember_variables((HUB, *SECRETS, *also))
