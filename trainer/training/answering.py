"""Answer a question about a job with one JSON object on standard output, from a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from trainer.config import TrainingJob
from trainer.config.explain import validated
from trainer.contract.errors import OrchestratorError
from trainer.contract.files import read_json
from trainer.training.combined import with_one_adapter
from trainer.training.starting import start_lightly


def start_alone(path: str) -> None:
    """Start the process of a question about the job in a JSON file; nothing of it is reported."""
    config = (read_json(Path(path)) or {}).get("training")
    start_lightly({**config, "report_to": []} if isinstance(config, dict) else config)


def answer(path: str, question: Callable[[TrainingJob], dict[str, Any]]) -> int:
    """Print what is found of the job in a JSON file, or the error as a record.

    Returns:
        The exit code: 0, or 1 for an error.
    """
    try:
        # Libraries print what they like.
        with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
            job = validated(TrainingJob, read_json(Path(path)), path)
            training = with_one_adapter(job.training, Path(folder))
            found = question(job.model_copy(update={"training": training}))
    except OrchestratorError as error:
        print(json.dumps(error.to_dict()))  # noqa: T201 - this is the answer
        return 1
    print(json.dumps(found))  # noqa: T201 - this is the answer
    return 0
