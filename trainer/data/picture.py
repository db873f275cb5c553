"""Rows as the model sees them: which tokens are learned, which are only seen, and what is cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.data.chats import NO_LOSS
from trainer.data.encoding import RowEncoder, limit_of
from trainer.data.parsing import Row
from trainer.data.reading import open_training
from trainer.data.tally import Tally
from trainer.data.templates import ensure_chat_template
from trainer.data.validation import CheckedReading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEARNED, SEEN, CUT = "learned", "seen", "cut"
NO_LIMIT = 1 << 30  # tokens: rows are encoded whole, to show where they are cut
BEGIN, END = "«", "»"  # around what is learned, in one line of a log


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens in a row of which the same becomes."""

    text: str
    kind: str
    """learned, seen or cut."""
    tokens: int
    is_special: bool = False


@dataclass(slots=True)
class Picture:
    """One row."""

    place: str
    """Its file and line."""
    texts: dict[str, list[Stretch]] = field(default_factory=dict)
    """What the model sees: of a comparison two, `chosen` and `rejected`; else one, without a name or, where
    there are classes, named after the row's label."""
    dropped: str = ""
    """Why nothing is learned of it; empty where something is."""

    def counts(self) -> dict[str, int]:
        """Return how many tokens are learned, seen and cut off."""
        found = dict.fromkeys((LEARNED, SEEN, CUT), 0)
        for part in (part for parts in self.texts.values() for part in parts):
            found[part.kind] += part.tokens
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), **self.counts()}


def pictures(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, first: int, count: int
) -> list[Picture]:
    """Return some rows of the data to train on; several data sets count one after another.

    Args:
        config: the job's settings.
        tokenizer: as the trainer has it.
        first: the number of the first row that is wanted, from 1.
        count: how many.

    Raises:
        DataError: one of the rows up to the last one that is wanted cannot be used.
    """
    if config.method != "cpt":
        ensure_chat_template(tokenizer)
    found: list[Picture] = []
    passed, last = 0, first - 1 + count
    for dataset in config.dataset.each():
        if passed >= last:
            break
        most = min(last - passed, dataset.max_rows or last)
        upto = dataset.model_copy(update={"max_rows": most})
        one = config.model_copy(update={"dataset": upto})
        # To the end, so that bad rows among them are named.
        rows = list(CheckedReading(open_training(upto), one))
        wanted = islice(rows, max(0, first - 1 - passed), None)
        found += [_picture(one, tokenizer, row) for row in wanted]
        passed += len(rows)
    return found


def in_one_line(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], labels: Sequence[int], longest: int
) -> str:
    """Return a row with marks around what is learned, cut after so many characters."""
    texts = []
    for is_learned, group in groupby(zip(ids, labels, strict=True), lambda t: t[1] != NO_LOSS):
        text = _decoded(tokenizer, [token for token, _ in group])
        texts.append(f"{BEGIN}{text}{END}" if is_learned else text)
    return _short("".join(texts), longest)


def _short(text: str, longest: int) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def first_row(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], longest: int = 600
) -> str:
    """Return a tokenised row in one line; a prompt, of which nothing is learned, without marks.

    Args:
        tokenizer: as the row was tokenised.
        row: of `PreparedData.train`.
        longest: characters.
    """
    answer = row.get("chosen_ids") or row.get("completion_ids")
    if answer is not None:
        prompt = list(row.get("prompt_ids") or [])
        ids = [*prompt, *answer]
        return in_one_line(tokenizer, ids, [NO_LOSS] * len(prompt) + list(answer), longest)
    if "label" in row:
        text = in_one_line(tokenizer, row["input_ids"], [NO_LOSS] * len(row["input_ids"]), longest)
        return f"{text} → {BEGIN}{', '.join(row['label'])}{END}"
    if "labels" in row:
        # What nothing stands before is predicted by nothing.
        labels = [NO_LOSS, *row["labels"][1:]]
        return in_one_line(tokenizer, row["input_ids"], labels, longest)
    text = _asked_text(tokenizer, row["prompt"])
    return _short(text, longest)


def _picture(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, row: tuple[Row, Any]
) -> Picture:
    tally, limit = Tally(), limit_of(config)
    RowEncoder(config, tokenizer).batch([row], tally)
    whole = config.model_copy(update={"max_length": NO_LIMIT})
    picture = Picture(row[0].place, dropped=next(iter(tally.why), ""))
    for columns in RowEncoder(whole, tokenizer).batch([row], Tally()).to_pylist():
        for name, tokens in _tokens(config, tokenizer, columns):
            picture.texts[name] = list(_parts(tokenizer, tokens, limit))
    return picture


def _tokens(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, columns: dict[str, Any]
) -> Iterator[tuple[str, list[tuple[int, bool]]]]:
    """Yield what a method sees of a row: each token, and whether it is learned."""
    method = METHODS[config.method]
    if method.learns_from_tokens:
        labels = columns["labels"]
        # Nothing predicts the first token.
        learned = [label != NO_LOSS and index > 0 for index, label in enumerate(labels)]
        yield "", list(zip(columns["input_ids"], learned, strict=True))
    elif method.generates:
        text = _asked_text(tokenizer, columns["prompt"])
        yield (
            "",
            [(token, False) for token in tokenizer(text, add_special_tokens=False)["input_ids"]],
        )
    elif method.has_classes:
        name = f"label {', '.join(columns['label']) or 'none'}"
        yield name, [(token, False) for token in columns["input_ids"]]
    elif "completion_ids" in columns:
        name = "good" if columns["label"] else "bad"
        yield name, _asked(columns["prompt_ids"], columns["completion_ids"])
    else:
        for name in ("chosen", "rejected"):
            # A reward model scores the whole chat.
            yield name, _asked(columns.get("prompt_ids") or [], columns[f"{name}_ids"])


def _asked_text(tokenizer: PreTrainedTokenizerBase, prompt: Any) -> str:
    """Return what is answered: a text, or a chat to its answer's begin."""
    if isinstance(prompt, str):
        return prompt
    text: str = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return text


def _asked(prompt: Iterable[int], answer: Iterable[int]) -> list[tuple[int, bool]]:
    return [*((token, False) for token in prompt), *((token, True) for token in answer)]


def _parts(
    tokenizer: PreTrainedTokenizerBase, tokens: list[tuple[int, bool]], limit: int | None
) -> Iterator[Stretch]:
    special = set(tokenizer.all_special_ids)

    def kind(item: tuple[int, tuple[int, bool]]) -> tuple[str, bool]:
        index, (token, is_learned) = item
        cut = limit is not None and index >= limit
        return CUT if cut else LEARNED if is_learned else SEEN, token in special

    for (what, is_special), group in groupby(enumerate(tokens), kind):
        ids = [token for _, (token, _) in group]
        yield Stretch(_decoded(tokenizer, ids), what, len(ids), is_special)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
