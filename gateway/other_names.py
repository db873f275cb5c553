"""Settings by the names of other programs: what is used here instead of them.

Those of a provider are its own affair (`Provider.instead`); these are of services around a training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from trainer.contract.errors import OrchestratorError

ANY, HOME = "any", "local"
WORDS: Mapping[str, str] = {
    "BACKEND_URL": "trainctl agent reads it; elsewhere set METRICS_API_URL and ALERT_API_URL",
    "API_KEY": "trainctl agent reads it; elsewhere set JOB_TOKEN for metrics and INTERNAL_API_KEY for alerts",
    "MODELS_DIR": "trainctl agent reads it; elsewhere name the model's folder by training.model in the job file",
    "DATASETS_DIR": "trainctl agent reads it; elsewhere name the file by training.dataset.path in the job file",
    "DATASET_URL": "name the address by training.dataset.path, with training.dataset.sha256",
    "CHECKPOINTS_DIR": "trainctl agent reads it; elsewhere set TRAINING_ORCHESTRATOR_HOME: checkpoints are kept below it",
    "LOGS_DIR": "trainctl agent reads it; elsewhere set TRAINING_ORCHESTRATOR_HOME: logs are kept below it",
    "ENABLE_MIXED_PRECISION": "trainctl agent reads it; elsewhere set training.dtype; auto takes bfloat16 where the GPU has it",
    "MAX_CONCURRENT_JOBS": "trainctl agent reads it; elsewhere start the worker by trainctl worker --limit N",
    "CHECKPOINT_INTERVAL_STEPS": "trainctl agent reads it; elsewhere set training.save_steps",
    "METRICS_REPORT_INTERVAL_STEPS": "trainctl agent reads it; elsewhere set training.logging_steps",
    "HF_REPO_NAME": "set training.push_to_hub",
    "NEXT_PUBLIC_SUPABASE_URL": "metrics and alerts go to METRICS_API_URL and ALERT_API_URL alone",
    "NEXT_PUBLIC_SUPABASE_ANON_KEY": "metrics and alerts go to METRICS_API_URL and ALERT_API_URL "
    "alone",
    "SUPABASE_SERVICE_KEY": "metrics and alerts go to METRICS_API_URL and ALERT_API_URL alone",
}
"""What to use instead of variables that any program may have set: `trainctl check` says it."""


def answers(labels: Iterable[str] = (ANY,)) -> list[str]:
    """Return a sentence for each variable that is set for a provider, and not used.

    Args:
        labels: the providers'; any: all that are known.
    """
    wanted = {label.partition("/")[0] for label in labels}
    if wanted <= {HOME}:
        return []
    # Importing it, and then a provider, takes a second or two.
    from blocks.registry import provider_class, provider_names

    names = provider_names() if ANY in wanted else sorted(wanted - {HOME})
    found = []
    for name in names:
        if not any(variable.startswith(_prefix(name)) for variable in os.environ):
            continue
        try:
            kind = provider_class(name)
        except OrchestratorError:  # somebody else's, and broken: whoever asks it for offers says so
            continue
        found += [_sentence(variable, words) for variable, words in kind.instead.items()]
    return [sentence for sentence in found if sentence]


def answers_of_any_program() -> list[str]:
    """Return a sentence for each variable that is set for a service like ours, and not used."""
    return [sentence for item in WORDS.items() if (sentence := _sentence(*item))]


def _sentence(variable: str, words: str) -> str:
    return f"{variable} is not used here: {words}." if os.environ.get(variable) else ""


def _prefix(name: str) -> str:
    return f"{name.upper()}_"
