"""The files of a job's model, data and code that are on this computer, and their SHA-256."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from blocks.home import home, private_folder
from blocks.workplaces.base import FileFacts, Parcel
from trainer.config import FOREIGN_DATA, TrainingConfig
from trainer.config.chat_templates import is_file
from trainer.config.code_references import references, split_reference
from trainer.config.model_files import check_model_files
from trainer.contract.checkpoints import NO_PART_OF_A_MODEL
from trainer.contract.errors import ConfigError, DataError
from trainer.contract.files import read_json, replace_json, sha256_of
from trainer.data.reading import files_of, is_elsewhere, remedy_for_missing
from trainer.rewards.scorer import model_in

WORTH_NOTING = 16 << 20  # bytes; hashing a smaller file takes no longer than reading its note
CODE, REWARD_MODEL = "training code", "training.reward_model"
ADAPTER, TEMPLATE = "training.adapter", "training.chat_template"
KEY_DIGITS = 16  # hexadecimal, of the hash that names an item on the machine
TENSORS = "*.safetensors"
OTHER_WEIGHTS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.ot"),
)
"""Weights in other formats: superfluous beside safetensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that a job file names and that is on this computer."""

    field: str
    """As in the job file, such as dataset.path."""
    path: Path
    is_folder: bool
    files: dict[str, Path]
    """The files by their names on the machine, relative to where the item goes."""

    @property
    def name(self) -> str:
        """What it is called on the machine too: a suffix says how to read a file."""
        name = self.path.absolute().name
        return name if name not in {"", ".."} else "folder"


def items_of(config: TrainingConfig) -> list[Item]:
    """Return the parts of a job's model, data and code that are on this computer.

    Names on the Hub, and absolute paths that do not exist here, are left to the machine.

    Raises:
        ConfigError: a relative path leads nowhere, or a folder has what cannot be sent.
    """
    data = config.dataset
    own = [_as_it_is("training.command.files", file) for file in _files(config)]
    own += [_as_it_is(CODE, path) for path in sorted(code_files(config))]
    own += _reward_model(config)
    own += _adapter(config)
    if config.chat_template and is_file(config.chat_template):
        own.append(_as_it_is(TEMPLATE, config.chat_template))
    # Another trainer knows itself what its files mean: send whole what exists, and check nothing.
    if config.trainer in FOREIGN_DATA:
        named = [("training.model", config.model)]
        named += [(f"dataset.{field}", path) for field, path in data.files()]
        here = [(field, path) for field, path in named if Path(path).expanduser().exists()]
        return [*own, *(_as_it_is(field, path) for field, path in here)]
    found = [_model(config), *(_dataset(f"dataset.{field}", path) for field, path in data.files())]
    return [*own, *(item for item in found if item)]


def _files(config: TrainingConfig) -> list[str]:
    return config.command.files if config.command else []


def code_files(config: TrainingConfig) -> set[str]:
    """Return the files of the user's own functions and classes."""
    return {str(split_reference(text, field)[0]) for field, text in references(config)}


def _reward_model(config: TrainingConfig) -> list[Item]:
    """Return the folder of the reward model, where it is one here.

    Raises:
        ConfigError: it is an adapter whose base is a folder of this computer.
    """
    if not config.reward_model or not Path(config.reward_model).expanduser().exists():
        return []
    item = _as_it_is(REWARD_MODEL, model_in(config.reward_model))
    base = (read_json(item.path / "adapter_config.json") or {}).get("base_model_name_or_path")
    if base and Path(base).expanduser().is_absolute():
        raise ConfigError(
            f"{REWARD_MODEL} = {config.reward_model!r}: it is an adapter of {base}, which exists "
            "only on this computer.",
            "Train the reward model with merge: true, and name its artifact again; or train it with "
            "peft: null, or from a model on the Hub.",
        )
    return [item]


def _adapter(config: TrainingConfig) -> list[Item]:
    """Return the folders of the adapters to go on with, as far as they are here."""
    here = [name for name in config.adapters if Path(name).expanduser().exists()]
    return [_adapters_files(name) for name in here]


def _adapters_files(named: str) -> Item:
    whole = _as_it_is(ADAPTER, named)
    # With its tokenizer, whose tokens and template it was trained with, and the manifest of its classes.
    beside = (*NO_PART_OF_A_MODEL, *OTHER_WEIGHTS, "README.md")
    names = [n for n in whole.files if "/" not in n and not _matches(n, beside)]
    wanted = {n: whole.files[n] for n in names}
    return replace(whole, files=wanted)


def _as_it_is(field: str, named: str) -> Item:
    """Return a file or folder whole, whatever is in it."""
    path = Path(named).expanduser()
    if not path.exists():
        raise ConfigError(f"{field} = {named!r}: there is no such file or folder.", "Correct it.")
    files = _walk(field, path) if path.is_dir() else {"": path}
    return Item(field=field, path=path, is_folder=path.is_dir(), files=files)


def _model(config: TrainingConfig) -> Item | None:
    folder = Path(config.model).expanduser()
    if not folder.exists():
        if not Path(config.model).expanduser().is_absolute():
            check_model_files(config.model)
        return None
    check_model_files(config.model)
    files = {
        name: path
        for name, path in _walk("training.model", folder).items()
        if not _matches(name, NO_PART_OF_A_MODEL)
    }
    # Repositories often carry the same weights twice or more: send them once.
    if any(_matches(name, (TENSORS,)) for name in files):
        files = {n: path for n, path in files.items() if not _matches(n, OTHER_WEIGHTS)}
    if config.init == "random":  # made from the config alone
        weights = (TENSORS, "*.safetensors.index.json", "*.bin.index.json", *OTHER_WEIGHTS)
        files = {n: path for n, path in files.items() if not _matches(n, weights)}
    return Item(field="training.model", path=folder, is_folder=True, files=files)


def _dataset(field: str, named: str) -> Item | None:
    path = Path(named).expanduser()
    if not path.exists():
        if path.is_absolute() or is_elsewhere(named):
            return None
        raise DataError(
            f"{field} = {named!r}: there is no such file or folder.",
            remedy_for_missing(path),
        )
    # The same code that the trainer reads rows with: what it would not read is not sent.
    readable = files_of(path, field)
    if not path.is_dir():
        return Item(field=field, path=path, is_folder=False, files={"": path})
    there = _walk(field, path)
    files = {name: there[name] for name in readable if name in there}
    return Item(field=field, path=path, is_folder=True, files=files)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    parts = name.split("/")
    return any(fnmatch.fnmatchcase(part, pattern) for part in parts for pattern in patterns)


def _walk(field: str, folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their relative names; hidden ones are skipped."""
    # Links that lead out are refused, not followed: a downloaded folder could have the user's keys
    # sent to a rented machine.
    allowed = _owner_of_links(folder)
    found: dict[str, Path] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted([*files, *folders]):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if not name.isprintable():
                raise ConfigError(f"{field}: {str(path)!r} has an unusable name.", "Rename it.")
            if path.is_symlink() and not path.resolve().is_relative_to(allowed):
                raise ConfigError(
                    f"{field}: {path} is a link to {path.resolve()}, outside of the folder.",
                    "Replace it by a copy, or move what it leads to into the folder.",
                )
            # Its files are walked too; those behind a link are inside, under their own names.
            if path.is_dir():
                continue
            if not stat.S_ISREG(_status(path).st_mode):
                raise ConfigError(f"{field}: {path} is not a regular file.", "Remove it.")
            found[path.relative_to(folder).as_posix()] = path
    return found


def _owner_of_links(folder: Path) -> Path:
    """Return the folder that links may lead into: in the Hub's cache a snapshot is all links."""
    # models--ORG--NAME/snapshots/REVISION/FILE leads to models--ORG--NAME/blobs/HASH:
    # https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    real = folder.resolve()
    repository = real.parent.parent
    of_the_hub = repository.name.startswith(("models--", "datasets--"))
    return repository if of_the_hub and real.parent.name == "snapshots" else real


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", "Check that it is there and yours."
        ) from error


# What is in them ------------------------------------------------------------------------------


async def parcel_of(item: Item) -> Parcel:
    """Return an item with the size and SHA-256 of its files; big ones are hashed once and noted."""
    facts = {name: await asyncio.to_thread(_facts, path) for name, path in item.files.items()}
    return Parcel(
        field=item.field,
        path=item.path,
        name=item.name,
        key=_key_of(item, facts),
        files=item.files,
        facts=facts,
    )


def _key_of(item: Item, facts: dict[str, FileFacts]) -> str:
    """Return 16 hexadecimal digits that change with any byte; for a file, those of its SHA-256."""
    if not item.is_folder:
        return facts[""].sha256[:KEY_DIGITS]
    lines = "".join(f"{fact.sha256}  {name}\n" for name, fact in sorted(facts.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:KEY_DIGITS]


def forget(path: Path) -> None:
    """Forget the hash of a file that turned out to have another."""
    _note(path).unlink(missing_ok=True)


def _facts(path: Path) -> FileFacts:
    # As git does for its index: a file with the same size, time and inode has the same content. If
    # not, the upload notices, for it hashes what it sends, and `forget` is called.
    status = _status(path)
    state = [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino]
    if status.st_size < WORTH_NOTING:
        return FileFacts(sha256=_hash(path), bytes=status.st_size)
    note = _note(path)
    noted = read_json(note) or {}
    if noted.get("state") == state:
        return FileFacts(sha256=str(noted["sha256"]), bytes=status.st_size)
    sha256 = _hash(path)
    replace_json(note, {"state": state, "sha256": sha256}, durable=False)
    return FileFacts(sha256=sha256, bytes=status.st_size)


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", "Check that it is there and yours."
        ) from error


def _note(path: Path) -> Path:
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]
    return private_folder(home() / "hashes") / f"{name}.json"
