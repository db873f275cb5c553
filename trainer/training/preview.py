"""Show rows as the model sees them: `python -m trainer.training.preview JOB.json FIRST COUNT`.

It prints one JSON object: {"rows": [...]}, see `trainer.data.picture.Picture`.
"""

from __future__ import annotations

import sys
from typing import Any

from trainer.config import TrainingJob
from trainer.data.picture import pictures
from trainer.engine.model import load_tokenizer
from trainer.training.answering import answer, start_alone


def main(path: str, first: str, count: str) -> int:
    """Print the rows, or the error as a record, of the job in a JSON file."""

    def shown(job: TrainingJob) -> dict[str, Any]:
        tokenizer = load_tokenizer(job.training)
        found = pictures(job.training, tokenizer, int(first), int(count))
        return {"rows": [picture.to_dict() for picture in found]}

    return answer(path, shown)


if __name__ == "__main__":
    start_alone(sys.argv[1])
    sys.exit(main(*sys.argv[1:]))
