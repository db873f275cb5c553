"""Render some rows: `python -m trainer.training.rendering JOB.json` prints one JSON object.

What a model's chat template refuses, or leaves out, is found before a job starts, and a machine is
paid for.
"""

from __future__ import annotations

import sys
from itertools import islice

from trainer.config import TrainingConfig
from trainer.data.demanding import demanding_rows
from trainer.training.answering import answer

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
    return answer(path, lambda job: {"rows": render(job.training)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
