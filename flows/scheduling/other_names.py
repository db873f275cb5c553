"""The configuration files of other orchestrators: what a pool obeys of them, under our names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from trainer.contract.errors import ConfigError

OBEYED = {
    "scheduler.strategy": "strategy",
    "scheduler.max_concurrent_jobs": "max_concurrent_jobs",
    "scheduler.check_interval": "check_interval",
    "resources.gpus": "gpus",
    "resources.max_vram_per_gpu": "max_vram_per_gpu",
    "resources.max_system_ram": "max_system_ram",
}
"""The setting of a pool for each of their names."""
NEEDLESS = {
    "monitoring.log_parse_interval": "logs and metrics are read as they are written",
    "monitoring.metrics_retention": (
        "metrics are kept for as long as their run is; "
        "TRAINING_ORCHESTRATOR_METRICS_RETENTION_DAYS of 'trainctl serve' limits their store"
    ),
}
"""What is so in any case, and why nothing has to be set."""
ABSENT = {
    "evaluation.auto_evaluate": "jobs measure held-out rows while they train; pictures are not judged",
    "evaluation.test_prompts": "no pictures are made of prompts",
    "evaluation.num_samples_per_checkpoint": "no pictures are made of checkpoints",
}
"""What there is nothing of."""


def changes_of(value: Any, source: str) -> tuple[dict[str, Any], list[str]]:
    """Return what a file changes in a pool, and what is to be said of the rest of it.

    Args:
        value: what is in the file: sections with settings.
        source: its name, for messages.

    Raises:
        ConfigError: a name in it is unknown.
    """
    changes: dict[str, Any] = {}
    notes = []
    for name, given in _settings(value, source):
        if name in OBEYED:
            changes[OBEYED[name]] = given
        elif name in NEEDLESS:
            notes.append(f"{source}: {name}: needs no setting: {NEEDLESS[name]}")
        elif name not in ABSENT:
            known = {**OBEYED, **NEEDLESS, **ABSENT}
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}."
            raise ConfigError(f"{source}: {name} is not a setting.", hint.capitalize())
        elif given is not None and given is not False:
            notes.append(f"{source}: {name} = {given!r} has no effect: {ABSENT[name]}")
    return changes, notes


def _settings(value: Any, source: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not all(
        isinstance(one, Mapping) for one in value.values()
    ):
        raise ConfigError(
            f"{source}: must hold sections with settings, such as scheduler: {{strategy: priority}}.",
            f"There are: {', '.join(dict.fromkeys(name.partition('.')[0] for name in OBEYED))}, "
            "monitoring, evaluation.",
        )
    return [
        (f"{section}.{name}", given)
        for section, settings in value.items()
        for name, given in settings.items()
    ]
