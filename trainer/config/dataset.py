"""Where the examples are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trainer.config.settings import MAX_NAME, JobName, MaybeText, Settings, Text
from trainer.config.store_urls import REMOTE, parse_store_url

Format = Literal[
    "messages",
    "conversations",
    "instruction",
    "prompt_completion",
    "text",
    "preference",
    "unpaired",
    "prompts",
    "labelled_text",
    "labelled_pair",
    "labelled_chat",
]
DatasetFormat = Literal["auto", Format]
PATHS = ("path", "eval_path")
"""The fields that may name a file."""
ROUNDING = 0.01
"""By how much the shares of a mix may miss 1: thirds are written as 0.33."""
Checksum = Annotated[
    str,
    BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value),
    Field(pattern=r"^[0-9a-f]{64}$"),
]
OF_MIXES = ("name", "share", "repeats")
"""The fields that one data set alone has no use for."""
# A page, and not a file there, which is at …/resolve/….
SECRET = re.compile(r"[?&](?:[\w-]*(?:signature|token|secret|password|key)|sig)=", re.IGNORECASE)
"""What the query of an address holds that lets its bearer read a file which others may not."""
OF_HUB = re.compile(
    r"https?://huggingface\.co/datasets/([\w.-]+/[\w.-]+)(?:/(?:tree|viewer)/.*)?/?$"
)
NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class SourceConfig(Settings):
    """One data set, and how to read it."""

    path: Text
    """A file (JSONL, JSON, CSV, Parquet, …), a folder of such files, here or in a store (s3://…, gs://…,
    az://…), or a dataset on the Hub."""
    format: DatasetFormat = "auto"
    """How rows are laid out. auto: recognised by the column names of the first row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The names of your columns: {instruction: question, output: answer}."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default_factory=dict)
    """Your names for roles, beside those that are known: {patient: user, doctor: assistant}."""
    subset: Text | None = None
    """A Hub dataset's configuration, where it has several. null: its only one."""
    split: Text = "train"
    """The split to train on: of a dataset on the Hub, or of a folder whose files are named after
    splits, such as train.jsonl and test.jsonl."""
    eval_split: Text | None = None
    """The split to evaluate on, of eval_path, or of path where eval_path is not given. null: where
    eval_path has splits, validation, else test."""
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """What to do with a row that cannot be used. skip: leave it out, and tell how many and the first
    twenty of them."""
    max_rows: int | None = Field(default=None, ge=1)
    """Read at most this many rows; for a quick trial. null: all."""
    eval_path: Text | None = None
    """Where the held-out rows are, in the same format: a file, a folder, or a dataset on the Hub. null:
    nowhere; see eval_split and eval_fraction."""
    eval_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Hold out this share of the rows; the same seed picks the same rows."""
    sha256: Checksum | None = None
    """The SHA-256 that the file at path must have; an address (https://…) needs one. null: any."""
    eval_sha256: Checksum | None = None
    """The same of eval_path. null: any."""
    name: JobName | None = None
    """What the data set is called in the log and in eval_<name>_loss, where it is one of several. null:
    after its path."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Of several data sets: which part of the rows of an epoch comes from this one. All have one, or
    none; together they are 1. null: as many as it has."""
    repeats: float | None = Field(default=None, gt=0, le=10_000)
    """Of several data sets: how often an epoch goes over this one; below 1, over a part of it. null: once."""

    @property
    def has_evaluation(self) -> bool:
        """Whether the rows to evaluate on are apart from those to train on."""
        return bool(self.eval_path or self.eval_split)

    @property
    def holds_out(self) -> bool:
        """Whether there are rows to evaluate on, wherever they come from."""
        return self.has_evaluation or self.eval_fraction > 0

    @model_validator(mode="after")
    def _one_source_of_evaluation(self) -> SourceConfig:
        if self.has_evaluation and self.eval_fraction:
            name = "eval_path" if self.eval_path else "eval_split"
            raise ValueError(f"give {name} or eval_fraction, not both")
        if self.eval_sha256 and not self.eval_path:
            raise ValueError("eval_sha256 is of the file at eval_path: give both, or neither")
        return self


def check_place(field: str, path: str, sha256: str | None) -> None:
    """Refuse an address that cannot be read, or whose file could be any.

    Args:
        field: path or eval_path.
        path: its value.
        sha256: of the file, where the job gives it.

    Raises:
        ValueError: naming the field, its value and the remedy.
    """
    scheme, mark, rest = path.partition("://")
    if not mark:
        return
    if "@" in rest.partition("/")[0] or SECRET.search(rest):
        raise ValueError(  # without the value, which would be shown
            f"dataset.{field} holds a password or a signature, which logs, manifests and Prefect would "
            "show: fetch the file and name it here"
        )
    named = f"dataset.{field} = {path!r}"
    scheme = scheme.lower()
    if not path.startswith(scheme):  # nothing else is known by capitals
        raise ValueError(f"{named}: write {scheme}://{rest}")
    if scheme == "hf" and not rest.startswith("datasets/"):
        raise ValueError(f"{named}: a dataset is hf://datasets/OWNER/NAME")
    if scheme in REMOTE:
        try:
            parse_store_url(path)
        except ValueError as error:
            raise ValueError(f"dataset.{field} = {error}") from None
        return
    if scheme not in {"hf", "https", "http"}:
        raise ValueError(
            f"{named}: {scheme}:// is not read; fetch the files and name them here, or give "
            "https://…, s3://…, gs://…, az://… or hf://datasets/…"
        )
    if page := OF_HUB.match(path):
        raise ValueError(f"{named} is a page of the Hub: write {page[1]}")
    if scheme != "hf" and not sha256:
        raise ValueError(
            f"{named} needs {'sha256' if field == 'path' else 'eval_sha256'}, the SHA-256 of the file, "
            f"for what is there may change; this prints it: curl -sL '{path}' | sha256sum"
        )


def _path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class DatasetConfig(SourceConfig):
    """Where the examples are and how to read them: one data set, or several that are mixed."""

    path: MaybeText = ""
    """A file (JSONL, JSON, CSV, Parquet, …), a folder of such files, or a dataset on the Hub."""
    streaming: bool = False
    """Read and tokenise rows only as training comes to them, for data larger than disk or memory. They
    are shuffled within pieces of some thousand rows; max_steps says how many are taken."""
    sources: list[Annotated[SourceConfig, BeforeValidator(_path_alone)]] = Field(
        default_factory=list
    )
    """Several data sets instead of one, each with settings of its own; in a job file, `dataset:` may be
    a list of them."""

    @property
    def has_evaluation(self) -> bool:
        """Whether rows to evaluate on are apart from those to train on."""
        return any(source.has_evaluation for source in self.sources) or super().has_evaluation

    @property
    def holds_out(self) -> bool:
        """Whether there are rows to evaluate on, wherever they come from."""
        return any(source.holds_out for source in self.sources) or super().holds_out

    @property
    def title(self) -> str:
        """The data as their user names them."""
        return ", ".join(source.path for source in self.sources) or self.path

    def each(self) -> list[DatasetConfig]:
        """Return the data sets, each as if it were the only one."""
        alone = [source.model_dump(exclude=set(OF_MIXES)) for source in self.sources]
        return [DatasetConfig(**each, streaming=self.streaming) for each in alone] or [self]

    def named(self) -> list[tuple[str, DatasetConfig]]:
        """Return `each` with its name; one alone has an empty one."""
        return list(zip(self.names() or [""], self.each(), strict=True))

    def names(self) -> list[str]:
        """Return a name for each of several data sets, no two alike; they stand in names of metrics."""
        given = {source.name for source in self.sources if source.name}
        found: list[str] = []
        for source in self.sources:
            plain = source.name or _name_of(source.path)
            name, number = plain, 1
            while not source.name and (name in given or name in found):
                number += 1
                name = f"{plain}-{number}"
            found.append(name)
        return found

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the field, below `dataset.`, and the value of everything that may be a file."""
        for prefix, source in self._prefixed():
            for field in PATHS:
                if value := getattr(source, field):
                    yield f"{prefix}{field}", value

    def with_files(self, change: Callable[[str, str], str]) -> DatasetConfig:
        """Return the settings with other files.

        Args:
            change: from a field and its value, as `files` yields them, to the value in its place.
        """

        def changed(prefix: str, source: SourceConfig) -> dict[str, Any]:
            given = {field: value for field in PATHS if (value := getattr(source, field))}
            return {field: change(f"{prefix}{field}", value) for field, value in given.items()}

        if not self.sources:
            return self.model_copy(update=changed("", self))
        moved = [source.model_copy(update=changed(p, source)) for p, source in self._prefixed()]
        return self.model_copy(update={"sources": moved})

    def with_each(self, **update: Any) -> DatasetConfig:
        """Return the settings with some changed, in each of several data sets."""
        if not self.sources:
            return self.model_copy(update=update)
        changed = [source.model_copy(update=update) for source in self.sources]
        return self.model_copy(update={"sources": changed})

    def with_at_most(self, rows: int) -> DatasetConfig:
        """Return the settings by which no more rows than these are read, of each data set."""
        if not self.sources:
            return self.model_copy(update={"max_rows": min(rows, self.max_rows or rows)})
        fewer = [
            s.model_copy(update={"max_rows": min(rows, s.max_rows or rows)}) for s in self.sources
        ]
        return self.model_copy(update={"sources": fewer})

    def _prefixed(self) -> list[tuple[str, SourceConfig]]:
        several = [(f"sources.{i}.", source) for i, source in enumerate(self.sources)]
        return [*several] or [("", self)]

    @model_validator(mode="after")
    def _one_or_several(self) -> DatasetConfig:
        if not self.sources:
            if not self.path:
                raise ValueError("path is missing: name a file, a folder or a dataset on the Hub")
            if alone := [n for n in OF_MIXES if getattr(self, n) is not None]:
                raise ValueError(
                    f"{alone[0]} = {getattr(self, alone[0])!r} is for one of several data sets: remove "
                    "it, or give a list of them"
                )
            return self
        if self.streaming and any(source.share is None for source in self.sources):
            raise ValueError(
                "streaming: how many rows each of several data sets has is not known: give all a share"
            )
        # Compared with the defaults: a job that was written out again gives every field.
        fields = type(self).model_fields
        given = [
            name
            for name in fields
            if name not in {"sources", "streaming"}
            and getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]
        if given:
            raise ValueError(
                f"{given[0]} = {getattr(self, given[0])!r} is given beside sources: give it in each "
                "of the sources that it holds for"
            )
        _check_mix(self.sources)
        return self


def _check_mix(sources: list[SourceConfig]) -> None:
    """Refuse names that are there twice, and parts that are no parts of one whole."""
    given = [source.name for source in sources if source.name]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"name = {twice[0]!r} is given to two data sets: give each its own")
    shares = [source.share for source in sources]
    if all(share is None for share in shares):
        return
    if any(source.repeats is not None for source in sources):
        raise ValueError("repeats beside share: say by one of the two how often rows are seen")
    if None in shares:
        raise ValueError(
            f"share is missing for {sources[shares.index(None)].path!r}: give it to all, or to none"
        )
    total = math.fsum(share for share in shares if share)
    if abs(total - 1) > ROUNDING:
        raise ValueError(f"share: all together are {total:g}, and must be 1")


def _name_of(path: str) -> str:
    """Return what a data set is called by its path: chats of data/chats.jsonl.gz."""
    last = PurePath(path.rstrip("/")).name
    plain = NO_NAME.sub("_", last.split(".")[0] or last).strip("._-")
    return plain[:MAX_NAME] or "data"
