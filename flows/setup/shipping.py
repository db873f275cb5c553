"""Bring what a job names on this computer to where it trains, and name it by its place there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blocks.workplaces.base import Carry, Log, Parcel, SourceChanged, Workplace
from flows.setup.files_here import (
    ADAPTER,
    CODE,
    REWARD_MODEL,
    TEMPLATE,
    forget,
    items_of,
    parcel_of,
)
from trainer.config import TrainingConfig
from trainer.config.code_references import is_reference, split_reference

CarryOf = Callable[[Parcel], Carry | None]


async def ship(
    workplace: Workplace, config: TrainingConfig, log: Log, carry_of: CarryOf = lambda parcel: None
) -> TrainingConfig:
    """Upload model and datasets that are on this computer; return the config with their places.

    Names on the Hub stay as they are: the trainer fetches them.

    Args:
        workplace: where the trainer shall run.
        config: as the job file gives it.
        log: takes lines about the progress.
        carry_of: returns how a parcel gets there without this computer; see `Parcel.carry`.

    Raises:
        ConfigError: something does not exist, cannot be sent, or changed meanwhile.
        DiskFull: there is no room there.
        IntegrityError: a file arrived with other content than it has here.
        ConnectionLost: the place cannot be reached; what arrived is kept.
    """
    places = {}
    files, code, adapters = [], {}, {}
    for item in await asyncio.to_thread(items_of, config):
        try:
            parcel = await parcel_of(item)
            place = await workplace.bring(replace(parcel, carry=carry_of(parcel)), log)
        except SourceChanged as error:
            if error.path:
                forget(error.path)
            raise
        if item.field == "training.command.files":
            files.append(place)
        elif item.field == CODE:
            code[item.path] = place
        elif item.field == ADAPTER:
            adapters[item.path] = place
        else:
            places[item.field] = place
    return config.model_copy(
        update={
            "model": places.get("training.model", config.model),
            "dataset": config.dataset.with_files(
                lambda field, path: places.get(f"dataset.{field}", path)
            ),
            "command": config.command and config.command.model_copy(update={"files": files}),
            "chat_template": places.get(TEMPLATE, config.chat_template),
            "adapter": config.with_adapters(
                lambda name: adapters.get(Path(name).expanduser(), name)
            ),
            "reward_model": places.get(REWARD_MODEL, config.reward_model),
            "reward_functions": [_moved(text, code) for text in config.reward_functions],
            "callbacks": [_moved(text, code) for text in config.callbacks],
            "formatting": config.formatting and _moved(config.formatting, code),
        }
    )


def _moved(reference: str, code: dict[Path, str]) -> str:
    """Return `path.py:name` with the file's place there; a name of ours stays."""
    if not is_reference(reference):
        return reference
    path, name = split_reference(reference, CODE)
    return f"{code[path]}:{name}"
