"""Check every row of a dataset before anything is spent on training with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from trainer.config import DatasetConfig, TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import DataError
from trainer.data.formats import Example, choose_schema
from trainer.data.formatting import formatted
from trainer.data.judged import Judged, Preference, Prompt
from trainer.data.labelled import Labelled, in_order, name_of
from trainer.data.parsing import Row
from trainer.data.problems import RowProblem, listed, naming
from trainer.data.reading import Source, open_evaluation, open_training
from trainer.data.tally import MAX_PROBLEMS

CHECKED = 10_000  # rows of a stream, before it is trained on
PROGRESS_EVERY = 1000  # rows between two calls of the progress callback

Progress = Callable[[int], None]


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset holds."""

    files: tuple[str, ...]
    rows: int
    """Rows read: all, or dataset.max_rows."""
    bad_rows: int
    """Rows that cannot be used: 0 unless dataset.on_bad_row skips them."""
    problems: tuple[str, ...]
    """What is wrong with the first of them."""
    format: str
    sha256: str
    """Of all files and their names, read or not because of dataset.max_rows."""
    bytes: int
    mean_characters: float
    max_characters: int
    unread: dict[str, int] = field(default_factory=dict)
    """In how many rows nothing reads a column."""
    judged: tuple[bool, ...] = ()
    """Which labels judged answers have; a pair is a good one and a bad one."""
    labels: dict[str, int] = field(default_factory=dict)
    """How many rows have each label, where rows have labels."""
    columns: tuple[str, ...] = ()
    """Of prompts: the columns that any of them has, for what scores the answers."""
    unread_files: tuple[str, ...] = ()
    """What lies beside the files and is not read: of another split, or of another kind."""
    evaluation: DatasetReport | None = None
    """The same of the rows to evaluate on, where they are apart."""
    sources: tuple[DatasetReport, ...] = ()
    """The same of each of several data sets."""


def inspect_dataset(config: TrainingConfig, progress: Progress | None = None) -> DatasetReport:
    """Read and check all rows that the config asks for, and those to evaluate on.

    Args:
        config: the config; `dataset`, `method` matter.
        progress: called with the number of rows read so far, now and then.

    Raises:
        DataError: there is nothing to read, at least one row cannot be used, or judged answers are
            all good or all bad. The message lists the first 20 bad rows.
    """
    found = []
    for name, dataset in config.dataset.named():
        with naming(name):
            found.append(_inspect_one(config, dataset, progress))
    whole = _merged(found) if config.dataset.sources else found[0]
    for report in filter(None, (whole, whole.evaluation)):
        # KTO learns from the contrast; with one label its loss says nothing.
        if len(report.judged) == 1:
            raise _one_label(config.dataset.title, *report.judged)
    return whole


def _inspect_one(
    config: TrainingConfig, dataset: DatasetConfig, progress: Progress | None
) -> DatasetReport:
    if dataset.streaming:  # it may take days
        dataset = dataset.with_at_most(CHECKED)
    one, evaluation = config.model_copy(update={"dataset": dataset}), None
    if dataset.has_evaluation:
        evaluation = inspect_source(open_evaluation(dataset), one, progress)
    return inspect_source(open_training(dataset), one, progress, evaluation)


def _merged(reports: Sequence[DatasetReport]) -> DatasetReport:
    """Return a report on several data sets as one."""
    rows = sum(report.rows for report in reports)
    unread: Counter[str] = Counter()
    for report in reports:
        unread.update(report.unread)
    apart = [report.evaluation for report in reports if report.evaluation]
    return DatasetReport(
        files=tuple(name for report in reports for name in report.files),
        rows=rows,
        bad_rows=sum(report.bad_rows for report in reports),
        problems=tuple(p for report in reports for p in report.problems)[:MAX_PROBLEMS],
        format=" and ".join(dict.fromkeys(report.format for report in reports)),
        sha256=hashlib.sha256("\n".join(r.sha256 for r in reports).encode()).hexdigest(),
        bytes=sum(report.bytes for report in reports),
        mean_characters=sum(r.mean_characters * r.rows for r in reports) / max(1, rows),
        max_characters=max(report.max_characters for report in reports),
        unread=dict(unread),
        labels=_added(report.labels for report in reports),
        columns=tuple(dict.fromkeys(name for report in reports for name in report.columns)),
        judged=tuple({label for report in reports for label in report.judged}),
        unread_files=tuple(name for report in reports for name in report.unread_files),
        evaluation=_merged(apart) if apart else None,
        sources=tuple(reports),
    )


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = sum(map(Counter, counts), Counter[str]())
    return {label: total[label] for label in in_order(total)}


def inspect_source(
    source: Source,
    config: TrainingConfig,
    progress: Progress | None = None,
    evaluation: DatasetReport | None = None,
) -> DatasetReport:
    """Read and check the rows of one source; see `inspect_dataset`.

    Raises:
        DataError: a row cannot be used.
    """
    reading = CheckedReading(source, config, progress)
    total = longest = 0
    judged: set[bool] = set()
    classes: dict[str, int] = {}
    columns: dict[str, None] = {}
    for _, example in reading:
        total += example.characters
        longest = max(longest, example.characters)
        if isinstance(example, Judged):
            judged.add(example.label)
        if isinstance(example, Prompt):
            columns |= dict.fromkeys(("prompt", *example.others))
        if isinstance(example, Preference):
            judged.update((True, False))
        if isinstance(example, Labelled):
            for label in example.labels:
                classes[label] = classes.get(label, 0) + 1
    return DatasetReport(
        files=source.files,
        rows=reading.rows,
        bad_rows=reading.bad_rows,
        problems=tuple(reading.problems),
        format=reading.format,
        # Of a stream not all is read for a first look.
        sha256="" if config.dataset.streaming else source.sha256(),
        bytes=source.bytes,
        mean_characters=total / max(1, reading.rows - reading.bad_rows),
        max_characters=longest,
        unread=reading.unread,
        judged=tuple(judged),
        labels={label: classes[label] for label in in_order(classes)},
        columns=tuple(columns),
        unread_files=source.unread,
        evaluation=evaluation,
    )


def _one_label(name: str, label: bool) -> DataError:  # noqa: FBT001 - it is what was read
    return DataError(
        f"{name}: every row is labelled {str(label).lower()}, so there is nothing to compare.",
        f"Add answers labelled {str(not label).lower()}, or learn good ones alone by method: sft.",
    )


@dataclass
class CheckedReading:
    """One pass over a source: yields the good rows, and raises at the end if any was bad.

    It goes on after a bad row, so that a person corrects all of them at once.
    """

    source: Source
    config: TrainingConfig
    progress: Progress | None = None
    after: tuple[int, int] = (0, 0)
    """Rows of the source to pass over, and how many of them formatting has not left out."""
    at_once: bool = False
    """Whether a bad row is refused as soon as it is met: of a stream the end may never come."""
    rows: int = field(default=0, init=False)
    bad_rows: int = field(default=0, init=False)
    format: str = field(default="", init=False)
    problems: list[str] = field(default_factory=list, init=False)
    unread: dict[str, int] = field(default_factory=dict, init=False)
    """In how many good rows nothing reads a column."""
    left_out: int = field(default=0, init=False)
    """Rows that formatting has left out; they are not among `rows`."""

    def __post_init__(self) -> None:
        passed, self.rows = self.after
        self.left_out = passed - self.rows

    def __iter__(self) -> Iterator[tuple[Row, Example]]:
        first, rows = self._opened()
        schema = choose_schema(first, self.config)
        # A name that no row has is found before any are passed over.
        missing = {} if any(self.after) else dict.fromkeys(self.config.dataset.columns.values())
        self.format = schema.format
        most = self.config.dataset.max_rows
        for row in islice(rows, None if most is None else max(0, most - self.rows)):
            self._count()
            for name in missing.keys() & row.value.keys():
                del missing[name]
            try:
                example = schema.convert(row.value)
            except RowProblem as problem:
                self._note(row, problem)
            else:
                beside = (f"{name} (beside the rows)" for name in row.beside)
                for name in (*schema.unread(row.value), *beside):
                    self.unread[name] = self.unread.get(name, 0) + 1
                yield row, example
        if self.progress:
            self.progress(self.rows)
        self._end(first, list(missing))

    def _rows(self) -> Iterator[Row]:
        """Yield the rows; where classes are learned, with their names for the numbers of a dataset."""
        learns = METHODS[self.config.method].has_classes
        classes = getattr(self.source, "classes", {}) if learns else {}
        if not classes:
            yield from self.source.rows()
            return
        for row in self.source.rows():
            named = {
                column: name_of(row.value[column], names)
                for column, names in classes.items()
                if column in row.value
            }
            yield row._replace(value=row.value | named)

    def _opened(self) -> tuple[Row, Iterator[Row]]:
        """Return the first row, whose columns show the layout, and those to read."""
        passed = self.after[0]
        counted = (lambda: None) if passed else self._leave_out
        rows = formatted(self._rows(), self.config, counted)
        # A source has one row at least, so this raises nothing but its own errors.
        first = next(rows, None)
        if first is None:
            raise DataError(
                f"training.formatting left out all {self.left_out:,} rows of {self.source.name}.",
                "Return the rows that are to be learned from.",
            )
        if not passed:
            return first, chain([first], rows)
        later = islice(self.source.rows(), passed, None)
        return first, formatted(later, self.config, self._leave_out)

    def _note(self, row: Row, problem: RowProblem) -> None:
        self.bad_rows += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{row.place}: {problem}")
        if self.at_once and self.config.dataset.on_bad_row == "refuse":
            raise self._error() from problem

    def _end(self, first: Row, missing: list[str]) -> None:
        """Refuse bad rows, and names that no row has."""
        skips = self.config.dataset.on_bad_row == "skip"
        if self.bad_rows and (not skips or self.bad_rows == self.rows):
            raise self._error()
        most = self.config.dataset.max_rows
        # In rows that are not read it may well be.
        if missing and (most is None or self.rows < most):
            # A name that was mistyped would leave its column out of every row.
            raise DataError(
                f"dataset.columns: no row of {self.source.name} has {listed(missing)}; the first has "
                f"{listed(first.value)}.",
                "Correct the name on the right of the colon, or leave it out.",
            )

    def _leave_out(self) -> None:
        self.left_out += 1

    def _count(self) -> None:
        self.rows += 1
        if self.progress and self.rows % PROGRESS_EVERY == 0:
            self.progress(self.rows)

    def _error(self) -> DataError:
        lines = [
            f"{self.bad_rows:,} of {self.rows:,} rows cannot be used ({self.source.name}).",
            *self.problems,
        ]
        if self.bad_rows > MAX_PROBLEMS:
            lines.append(f"and {self.bad_rows - MAX_PROBLEMS:,} more.")
        remedy = "Correct these rows, or set dataset.on_bad_row: skip."
        if len(self.source.files) > 1:
            remedy += " Files of other layouts are given as a list of data sets."
        return DataError("\n".join(lines) + "\n", remedy)
