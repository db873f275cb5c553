"""Several adapters to go on with become one before anything else is done with them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.adapter_files import FIELD, SETTINGS, WEIGHTS
from trainer.contract.files import read_json, sha256_of
from trainer.contract.job_directory import JobDirectory
from trainer.contract.manifest import MANIFEST
from trainer.engine.loading import fetched_adapter
from trainer.results.combining import TOKENIZER, check_addable, combine, refused_as


def with_one_adapter(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """Return the config with the adapters that it names merged into one, by its place in `folder`.

    Raises:
        ModelNotFound: one cannot be fetched.
        ConfigError: they cannot be added up.
    """
    if not isinstance(config.adapter, list):
        return config
    wanted = [SETTINGS, WEIGHTS, *TOKENIZER]
    parts = [fetched_adapter(name, wanted) for name in config.adapter]
    with refused_as(FIELD):
        check_addable(parts)
    facts = [sha256_of(part / name) for part in parts for name in (SETTINGS, WEIGHTS)]
    # By what it is made of: whatever an attempt before this one has left is of the same parts.
    target = folder / hashlib.sha256(" ".join(facts).encode()).hexdigest()[:16]
    if not target.is_dir():
        # All processes of a machine do the same, and whoever is last finds it there.
        own = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(own, ignore_errors=True)
        with refused_as(FIELD):
            combine(parts, own)
        try:
            own.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(own)
    return config.model_copy(update={"adapter": str(target)})


def continued(
    directory: JobDirectory, config: TrainingConfig, named: TrainingConfig, sha256: str | None
) -> dict[str, Any]:
    """Return what the manifest says of the adapter that was gone on with.

    Args:
        directory: the job's.
        config: with the one adapter that was trained further.
        named: with what the user called it, or its parts.
        sha256: of that adapter.
    """
    jobs = (read_json(directory.job) or {}).get("continues")
    known = {"adapter": named.adapter, "job": jobs, "sha256": sha256}
    if Path(str(config.adapter)).parent != directory.adapter:
        return known
    made_of = (read_json(Path(str(config.adapter)) / MANIFEST) or {}).get("combines") or []
    return known | {"combines_sha256": [part["sha256"] for part in made_of]}
