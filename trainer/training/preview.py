"""Show rows as the model sees them: `python -m trainer.training.preview JOB.json FIRST COUNT`.

It prints one JSON object: {"rows": [...]}, see `trainer.data.picture.Picture`.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from trainer.config import TrainingJob
from trainer.config.explain import validated
from trainer.contract.errors import OrchestratorError
from trainer.contract.files import read_json
from trainer.data.picture import pictures
from trainer.engine.model import load_tokenizer


def main(path: str, first: str, count: str) -> int:
    """Print the rows, or the error as a record, of the job in a JSON file."""
    try:
        with redirect_stdout(sys.stderr):  # libraries print what they like
            config = validated(TrainingJob, read_json(Path(path)), path).training
            found = pictures(config, load_tokenizer(config), int(first), int(count))
    except OrchestratorError as error:
        print(json.dumps(error.to_dict()))  # noqa: T201 - this is the answer
        return 1
    print(json.dumps({"rows": [picture.to_dict() for picture in found]}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
