"""Render some rows: `python -m trainer.training.rendering JOB.json` prints one JSON object.

What a model's chat template refuses, or leaves out, is found before a job starts, and a machine is
paid for.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

from trainer.config import TrainingConfig, TrainingJob
from trainer.config.explain import validated
from trainer.contract.errors import OrchestratorError
from trainer.contract.files import read_json
from trainer.data.demanding import demanding_rows

MOST = 200  # rows that are rendered


def render(config: TrainingConfig) -> int:
    """Render rows that demand more of a chat template than two speakers; return how many.

    Raises:
        OrchestratorError: one cannot be rendered whole, or the tokenizer cannot be loaded.
    """
    from trainer.data.encoding import RowEncoder
    from trainer.data.tally import Tally
    from trainer.data.templates import ensure_chat_template
    from trainer.engine.model import load_tokenizer

    rows = list(islice(demanding_rows(config), MOST))
    tokenizer = load_tokenizer(config)
    ensure_chat_template(tokenizer)
    RowEncoder(config, tokenizer).batch(rows, Tally())
    return len(rows)


def main(path: str) -> int:
    """Print how many rows were rendered, or the error as a record, of the job in a JSON file."""
    try:
        with redirect_stdout(sys.stderr):
            job = validated(TrainingJob, read_json(Path(path)), path)
            found = {"rows": render(job.training)}
    except OrchestratorError as error:
        print(json.dumps(error.to_dict()))  # noqa: T201 - this is the answer
        return 1
    print(json.dumps(found))  # noqa: T201 - this is the answer
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
