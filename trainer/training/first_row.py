"""The first row of the data as the model sees it: a line of the log, and an event for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.contract.events import Kind, note_event
from trainer.contract.job_directory import JobDirectory
from trainer.data.picture import BEGIN, END, first_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tell_first_row(
    directory: JobDirectory, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]
) -> None:
    """Say and note what a row of `PreparedData.train` looks like."""
    # Not in the manifest, which goes to the Hub with the artifact: a row may be private.
    # A prompt is shown as it was given: JSON can hold halves of characters, which no log can, and
    # NUL, for which PostgreSQL would refuse the event.
    text = first_row(tokenizer, row).replace("\0", "\ufffd").encode(errors="replace").decode()
    line = f"the first row, {BEGIN}learned{END}: {text}"
    print(line, flush=True)  # noqa: T201 - standard output is the job's log
    note_event(directory, Kind.FIRST_ROW, line, row=text)
