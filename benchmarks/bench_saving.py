"""How long training waits for a save: with `async_save` and without, in turns.

Both arms train all weights of a Llama of 29 million parameters, so that a checkpoint is 350 MB:
weights and both moments of Adam. The time of a save runs from the end of a step until the trainer
goes on, with what the optimizer then waits for copies; a save that has to wait for the one before
counts with that wait. Both arms must leave the same weights. The last line is the ratio of the medians.
"""

from __future__ import annotations

import json
from pathlib import Path

from common import EXAMPLES, Place, conclude, fail, median, options, place, spread
from methods import weights

GOAL = 0.05
SAVE_STEPS = 6
CLOCK = Path(__file__).with_name("save_clock.py")
ARMS = {"at once": False, "async_save": True}


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", steps=24)
    steps = SAVE_STEPS if given.quick else given.steps
    waits: dict[str, list[float]] = {arm: [] for arm in ARMS}
    totals: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with place() as here:
        model = here.llama("llama", hidden_size=512, layers=8, heads=8)
        for number in range(given.rounds):
            order = list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]
            left = {arm: train(here, model, arm, number, steps, waits, totals) for arm in order}
            if left["at once"] != left["async_save"]:
                fail("The two arms left different weights.")
    for arm in ARMS:
        print(f"{arm:10}  a save {spread(waits[arm])}  all of training {spread(totals[arm])}")
    conclude(
        "saving_wait_async_by_sync",
        median(waits["async_save"]) / median(waits["at once"]),
        "<=",
        GOAL,
    )


def train(
    here: Place,
    model: Path,
    arm: str,
    number: int,
    steps: int,
    waits: dict[str, list[float]],
    totals: dict[str, list[float]],
) -> list[str]:
    """Train one arm, note its times, and return the hashes of its weights."""
    name = f"{arm.replace(' ', '-')}-{number}"
    config = {
        "model": str(model),
        "dataset": {"path": str(EXAMPLES / "quickstart.jsonl")},
        "peft": None,
        "max_steps": steps,
        "max_length": 64,
        "per_device_train_batch_size": 2,
        "save_steps": SAVE_STEPS,
        "async_save": ARMS[arm],
        "report_to": [],
    }
    job = here.job_directory(name, config)
    clock = here.folder / f"{name}.json"
    here.python(CLOCK, job.root, SAVE_CLOCK=str(clock))
    found = json.loads(clock.read_text())
    waits[arm] += found["waits"]
    totals[arm].append(found["seconds"])
    return weights(job)


if __name__ == "__main__":
    main()
