"""Which way the rows of a batch are laid out for a model: the fastest that is proven on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from trainer.contract.errors import ConfigError
from trainer.contract.events import Kind, note_event
from trainer.contract.files import read_json, replace_json
from trainer.contract.world import own_rank
from trainer.data.collation import FlatCollator, PaddedCollator
from trainer.engine.attention import Isolation, attend_by_document, isolation_of, without_adapters
from trainer.engine.collectives import of_first
from trainer.methods.proof import Proof, Refuted, Way, first_proven, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel, Trainer

    from trainer.config import TrainingConfig
    from trainer.contract.job_directory import JobDirectory
    from trainer.engine.job_trainer import TrainingRun
    from trainer.methods.proof import Fault

PADDED = "padded"
PROBED = 3
"""Rows of the data that the proof takes."""
NOTE, ANSWERS_NOTE = "proof.json", "answers_proof.json"
"""Of how rows are laid out, and of how answers are written."""
COSTLY = Isolation.MASK
"""Of use to packed rows, but no faster than padding."""
LIBRARIES = ("torch", "transformers", "peft", "trl")


def is_asked_for(config: TrainingConfig) -> bool:
    """Whether the job says that rows lie in one sequence."""
    return bool(config.packs or config.padding_free)


def isolations(model: PreTrainedModel, config: TrainingConfig) -> list[Isolation]:
    """Return what may keep the rows of one sequence apart; empty: they are padded."""
    # A model that is split only later cannot be tried, and what an architecture says of itself has
    # been wrong: rows lie in one sequence there for those alone who ask for it.
    if config.parallelism != "ddp" and not is_asked_for(config):
        return []
    found = isolation_of(model)
    # A mask cannot be proven where a model is split only later.
    if found is None or (found is COSTLY and config.parallelism != "ddp"):
        if not is_asked_for(config):
            return []
        wanted = "packing" if config.packs else "padding_free"
        raise ConfigError(
            f"training.{wanted}: the attention of {name_of(model)} cannot keep rows apart "
            "that lie in one sequence.",
            f"Set {wanted}: false.",
        )
    if is_asked_for(config):
        return list(dict.fromkeys([found, COSTLY]))
    # A compiled model is compiled anew for every new number of tokens.
    is_compiled = bool(config.arguments.get("torch_compile"))
    unwanted = config.padding_free is False or is_compiled or found is COSTLY
    return [] if unwanted else [found]


def ways_of(
    model: PreTrainedModel, flat: Sequence[Isolation], collate: Any, *, head_can_skip: bool
) -> list[Way]:
    """Return the ways to lay out rows, from the fastest to the safest.

    Args:
        model: as it was loaded.
        flat: what may keep rows apart in one sequence.
        collate: TRL's collator for padded rows; None where they must lie in one sequence.
        head_can_skip: see `FlatCollator`.
    """
    base = without_adapters(model)
    as_loaded = partial(_attend_as, base, str(base.config._attn_implementation))
    by_document = partial(attend_by_document, model)
    ways = [
        Way(
            name=str(isolation),
            collate=FlatCollator(isolation, head_can_skip=head_can_skip),
            is_flat=True,
            prepare=by_document if isolation is Isolation.BY_DOCUMENT else as_loaded,
        )
        for isolation in flat
    ]
    if collate is not None:
        ways.append(Way(PADDED, PaddedCollator(collate), is_flat=False, prepare=as_loaded))
    return ways


def chosen(
    run: TrainingRun,
    trainer: Trainer,
    ways: Sequence[Way],
    documents: Sequence[Sequence[int]],
    fault_of: Fault | None = None,
) -> tuple[Way, Proof]:
    """Return the first way that is proven on the trainer's model, which is made ready for it.

    Sharded models are split only later, and are not tried: the first way is taken.

    Args:
        run: its inputs.
        trainer: it has the model in its place.
        ways: from the fastest to the safest.
        documents: token ids of some rows of the data.
        fault_of: see `first_proven`.

    Raises:
        ConfigError: none is right.
    """
    if run.config.parallelism != "ddp":
        proof = Proof(ways[0].name, 0.0)
        say_unproven(proof.name)
    else:
        prove = partial(
            first_proven,
            run.model,
            ways,
            documents,
            longest=run.config.max_length,
            autocast=trainer.accelerator.autocast,
            fault_of=fault_of,
        )
        proof = proven(run, trainer, [way.name for way in ways], prove)
    way = next(way for way in ways if way.name == proof.name)
    way.prepare()
    return way, proof


def say_unproven(name: str) -> None:
    """Say that a way is taken for a model that is split only later, and cannot be tried."""
    if own_rank().is_first:
        print(f"rows of a batch: {name}, not proven on a model that is split", flush=True)  # noqa: T201 - standard output is the job's log


def proven(
    run: TrainingRun,
    trainer: Trainer,
    names: Sequence[str],
    prove: Callable[[], Proof],
    note: str = NOTE,
) -> Proof:
    """Prove in the first process, say what came of it and note it in the job directory.

    What is noted there already is read instead: a proof takes less than a step, so that it need not
    be shared between jobs, and what it holds for is a machine's affair.

    Args:
        run: its inputs.
        trainer: it has the model in its place.
        names: of the ways among which `prove` chooses.
        prove: returns what came of it, or raises `Refuted`.
        note: the file's name.

    Raises:
        ConfigError: no way is right.
    """
    return of_first(partial(_remembered, run, _key(run, trainer, names), prove, note))


def _remembered(run: TrainingRun, key: str, prove: Callable[[], Proof], name: str) -> Proof:
    note = run.directory.cache / name
    known = read_json(note) or {}
    if known.get("key") == key:
        proof = Proof(**known["proof"])
        print(proof.in_words(), flush=True)  # noqa: T201 - standard output is the job's log
        return proof
    try:
        proof = prove()
    except Refuted as error:
        raise _refused(run, str(error)) from error
    print(proof.in_words(), flush=True)  # noqa: T201 - as above
    if proof.refuted and own_rank().is_first:
        facts = {"way": proof.name, "refuted": proof.refuted}
        note_event(run.directory, Kind.FALLBACK, proof.in_words(), step=0, **facts)
    run.directory.cache.mkdir(parents=True, exist_ok=True)
    replace_json(note, {"key": key, "proof": asdict(proof)}, durable=False)
    return proof


def proofs_in(directory: JobDirectory) -> list[Proof]:
    """Return what a job directory holds of what was proven."""
    notes = (read_json(directory.cache / name) for name in (NOTE, ANSWERS_NOTE))
    return [Proof(**note["proof"]) for note in notes if note]


def _key(run: TrainingRun, trainer: Trainer, names: Sequence[str]) -> str:
    """Return what a proof holds for, as a hash: the weights do not matter."""
    model: Any = run.model
    facts = {
        "model": [type(model).__name__, model.config.to_json_string(use_diff=False)],
        # Of the config's text it is no part.
        "attention": str(model.config._attn_implementation),
        "adapters": str(getattr(model, "peft_config", None)),
        "method": run.config.method,
        "ways": list(names),
        "precision": [str(model.dtype), str(trainer.accelerator.mixed_precision)],
        "device": model.device.type,
        "longest": run.config.max_length,
        "versions": [version(name) for name in LIBRARIES],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _refused(run: TrainingRun, reasons: str) -> ConfigError:
    name = name_of(run.model)
    if run.config.packs or run.config.padding_free:
        wanted = "packing" if run.config.packs else "padding_free"
        return ConfigError(
            f"training.{wanted}: {name} does not keep rows apart that lie in one sequence "
            f"({reasons}).",
            f"Set {wanted}: false.",
        )
    return ConfigError(
        f"training.model: {name} computes something else of rows in a batch than of each alone "
        f"({reasons}).",
        "Choose another model.",
    )


def _attend_as(model: PreTrainedModel, name: str) -> None:
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)
