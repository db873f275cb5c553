"""Where the examples are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config.settings import Settings, Text

Format = Literal[
    "messages",
    "conversations",
    "instruction",
    "prompt_completion",
    "text",
    "preference",
    "unpaired",
    "prompts",
]
DatasetFormat = Literal["auto", Format]


class DatasetConfig(Settings):
    """Where the examples are and how to read them."""

    path: Text
    """A file (JSONL, JSON, CSV, Parquet), a folder of such files, or a dataset on the Hub."""
    format: DatasetFormat = "auto"
    """How rows are laid out. auto: recognised by the column names of the first row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The names of your columns: {instruction: question, output: answer}."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default_factory=dict)
    """Your names for roles, beside those that are known: {patient: user, doctor: assistant}."""
    subset: Text | None = None
    """A Hub dataset's configuration, where it has several."""
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
    """Read at most this many rows; for a quick trial."""
    eval_path: Text | None = None
    """Where the held-out rows are, in the same format: a file, a folder, or a dataset on the Hub."""
    eval_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Hold out this share of the rows; the same seed picks the same rows."""

    @property
    def has_evaluation(self) -> bool:
        """Whether the rows to evaluate on are apart from those to train on."""
        return bool(self.eval_path or self.eval_split)

    @property
    def holds_out(self) -> bool:
        """Whether there are rows to evaluate on, wherever they come from."""
        return self.has_evaluation or self.eval_fraction > 0

    @model_validator(mode="after")
    def _one_source_of_evaluation(self) -> DatasetConfig:
        if self.has_evaluation and self.eval_fraction:
            name = "eval_path" if self.eval_path else "eval_split"
            raise ValueError(f"give {name} or eval_fraction, not both")
        return self
