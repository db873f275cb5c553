"""Execute a run without a terminal: `python -m gateway.background RUN_ID`.

It outlives the terminal that started it. What it prints goes to the run's flow.log.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from prefect.exceptions import Pause

from flows.execute import execute
from gateway.exits import complain, sentence
from trainer.errors import OrchestratorError


def main(run_id: str) -> int:
    """Execute the run to its rest and return the exit code: 1 when it failed, else 0."""
    try:
        state = asyncio.run(execute(UUID(run_id)))
    except Pause:
        return 0
    except OrchestratorError as error:
        complain(sentence(error))
        return 1
    return 1 if state.is_failed() or state.is_crashed() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
