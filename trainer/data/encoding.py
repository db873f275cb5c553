"""Checked rows → Arrow batches of what a method learns from, with a tally of what became of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import DataError
from trainer.data.answers import AnswerEncoder, Asked, one_prompt
from trainer.data.chats import NO_LOSS, ChatEncoder, Encoded
from trainer.data.demanding import messages_of
from trainer.data.formats import Chat, Example, PlainText
from trainer.data.judged import Judged, Preference, Prompt, Said
from trainer.data.labelled import Labelled
from trainer.data.labels_encoding import LabelledEncoder
from trainer.data.parsing import Row
from trainer.data.spans import Turns, assistants
from trainer.data.tally import WEIGHTLESS, Tally
from trainer.data.templates import ChatTemplate
from trainer.data.texts import Answered, answered, leading_tokens, tokens_of
from trainer.data.turns import Message
from trainer.data.weights import WEIGHT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = list[tuple[Row, Example]]
Columns = dict[str, Any]

BATCH_ROWS = 512
BATCH_CHARACTERS = 4_000_000  # so that rows of megabytes do not meet in memory
TOKENS = pa.list_(pa.int32())
SCHEMAS = {
    "tokens": pa.schema([*((name, TOKENS) for name in Encoded._fields), (WEIGHT, pa.float64())]),
    "pairs": pa.schema([(f"{name}_ids", TOKENS) for name in ("prompt", "chosen", "rejected")]),
    "scored": pa.schema([(f"{name}_ids", TOKENS) for name in ("chosen", "rejected")]),
    "judged": pa.schema(
        [("prompt_ids", TOKENS), ("completion_ids", TOKENS), ("label", pa.bool_())]
    ),
    "labelled": pa.schema(
        [("input_ids", TOKENS), ("token_type_ids", TOKENS), ("label", pa.list_(pa.string()))]
    ),
}
"""The columns by what a method learns from, as TRL's trainers name them."""

SAID = ("role", "content")
FORGOTTEN = "earlier turns are shown without their thoughts, as the chat template does it"
VARIED = "chats are rendered by TRL's training variant of the chat template, which shows them whole"
NOTHING = "nothing to learn within max_length"
EMPTY = "no token is left of the text"
UNMARKED = "no turn that is to be learned"
NO_ROOM = "the prompt leaves no room for an answer within max_length"
TOO_LONG = "longer than max_length, and a part of an answer cannot be scored"
EQUAL = "both answers are the same once they are cut at max_length"


class RowEncoder:
    """Makes of rows what one method learns from."""

    def __init__(
        self, config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, *, weighs: bool = True
    ) -> None:
        """Take the settings.

        Args:
            config: the job's.
            tokenizer: with its chat template.
            weighs: whether the weights of rows count, as they do not where rows are held out.
        """
        self._weighs = weighs
        self._config = config
        self._method = METHODS[config.method]
        self._tokenizer = tokenizer
        self._prompts = pa.schema([])

    def batch(self, rows: Rows, tally: Tally) -> pa.RecordBatch:
        """Return the rows from which something can be learnt, and count all of them.

        Raises:
            DataError: the chat template refuses one, or their columns are of different kinds.
        """
        before = copy.deepcopy(tally)
        try:
            return self._batch(rows, tally)
        except DataError as error:
            if self._config.dataset.on_bad_row == "refuse":
                raise
            vars(tally).update(vars(before))
            if len(rows) == 1:
                tally.skip(1, [error.message.rstrip(".")])
                return self._batch([], tally)
        # One by one, to know which of them it is.
        return _joined([self.batch([row], tally) for row in rows])

    def _batch(self, rows: Rows, tally: Tally) -> pa.RecordBatch:
        self._note_unread(rows, tally)
        if self._method.generates:
            return self._prompt_batch(rows, tally)
        if self._method.learns_from_tokens:
            found, schema = self._tokens(rows, tally), SCHEMAS["tokens"]
        elif "unpaired" in self._method.formats:
            found, schema = self._judged(rows, tally), SCHEMAS["judged"]
        elif self._method.has_classes:
            found, schema = self._labelled(rows, tally), SCHEMAS["labelled"]
        elif self._method.is_classifier:
            found, schema = self._scored(rows, tally), SCHEMAS["scored"]
        else:
            found, schema = self._pairs(rows, tally), SCHEMAS["pairs"]
        batch = pa.RecordBatch.from_pylist(list(found), schema=schema)
        tally.highest = max(tally.highest, _highest(batch))
        return batch

    def _note_unread(self, rows: Rows, tally: Tally) -> None:
        chats = [messages for _, example in rows if (messages := messages_of(example))]
        if not chats:
            return
        tally.chats += len(chats)
        template = ChatTemplate(self._tokenizer)
        # Of prompts TRL gets role and content alone.
        unread = _further if self._method.generates else template.unread
        for messages in chats:
            for name in set(unread(messages)):
                tally.ignore(f"{name} (in messages)", 1)

    # Chats and texts -------------------------------------------------------------------------

    def _tokens(self, rows: Rows, tally: Tally) -> Iterator[Columns]:
        limit = limit_of(self._config)
        for row, weight in self._encoded(rows, tally):
            labels = row.labels[:limit]
            # Nothing predicts the first token, so a label there teaches nothing.
            if any(label != NO_LOSS for label in labels[1:]):
                tally.keep(len(row.input_ids), limit)
                tally.weighted += weight != 1
                yield {"input_ids": row.input_ids[:limit], "labels": labels, WEIGHT: weight}
            else:
                tally.drop(NOTHING)

    def _encoded(self, rows: Rows, tally: Tally) -> Iterator[tuple[Encoded, float]]:
        """Yield the rows as tokens; where prompts are of both kinds, chats come first."""
        only = self._config.assistant_only_loss
        weighed = [(row, e) for row, e in rows if isinstance(e, Chat | PlainText)]
        if self._weighs:
            weighed = [(row, e) for row, e in weighed if e.weight]
        for _ in range(len(rows) - len(weighed)):
            tally.drop(WEIGHTLESS)
        given = [
            (row.place, example.learning(self._config.learn))
            for row, example in weighed
            if isinstance(example, Chat)
        ]
        chats = [(p, c) for p, c in given if not c.muted.issuperset(assistants(c.messages))]
        for _ in range(len(given) - len(chats)):
            tally.drop(UNMARKED)
        if chats:
            encoder = ChatEncoder(self._tokenizer, assistant_only=only)
            yield from zip(encoder.encode(chats), (c.weight for _, c in chats), strict=True)
            _note(encoder.turns, tally)
        plain = [e for _, e in weighed if isinstance(e, PlainText)]
        texts = (
            answered(self._tokenizer, [(e.prompt, e.completion) for e in plain]) if plain else ()
        )
        for (ids, asked), one in zip(texts, plain, strict=True):
            silent = [NO_LOSS] * asked if only else ids[:asked]
            yield Encoded(ids, silent + ids[asked:]), one.weight

    # Answers that are compared, or judged ------------------------------------------------------

    def _pairs(self, rows: Rows, tally: Tally) -> Iterator[Columns]:
        limit = self._config.max_length
        # Then TRL cuts, by each answer's length.
        keeps_end = self._config.arguments.get("truncation_mode") == "keep_end"
        for place, better, worse in self._compared(rows, tally):
            asked = one_prompt(place, better, worse)
            longest = max(len(better.ids), len(worse.ids))
            if keeps_end:
                chosen, rejected = better.ids[asked:], worse.ids[asked:]
            else:
                chosen, rejected = (one.ids[asked:limit] for one in (better, worse))
            if asked >= limit and not keeps_end:
                tally.drop(NO_ROOM)
            elif chosen == rejected:
                tally.drop(EQUAL)
            else:
                tally.keep(longest, limit)
                yield {
                    "prompt_ids": better.ids[:asked],
                    "chosen_ids": chosen,
                    "rejected_ids": rejected,
                }

    def _scored(self, rows: Rows, tally: Tally) -> Iterator[Columns]:
        for _, better, worse in self._compared(rows, tally):
            longest = max(len(better.ids), len(worse.ids))
            if longest > self._config.max_length:
                tally.drop(TOO_LONG)
            else:
                tally.keep(longest, None)
                yield {"chosen_ids": better.ids, "rejected_ids": worse.ids}

    def _compared(self, rows: Rows, tally: Tally) -> Iterator[tuple[str, Answered, Answered]]:
        pairs = [(row.place, e) for row, e in rows if isinstance(e, Preference)]
        encoder = AnswerEncoder(self._tokenizer)
        better = encoder.encode([Asked(p, e.prompt, e.chosen, e.tools) for p, e in pairs])
        worse = encoder.encode([Asked(p, e.prompt, e.rejected, e.tools) for p, e in pairs])
        _note(encoder.turns, tally)
        places = [place for place, _ in pairs]
        return zip(places, better, worse, strict=True)

    def _judged(self, rows: Rows, tally: Tally) -> Iterator[Columns]:
        limit = self._config.max_length
        answers = [(row.place, one) for row, example in rows for one in _each(example)]
        asked = [Asked(place, one.prompt, one.completion, one.tools) for place, one in answers]
        encoder = AnswerEncoder(self._tokenizer)
        encoded = encoder.encode(asked)
        _note(encoder.turns, tally)
        for (_, one), (ids, count) in zip(answers, encoded, strict=True):
            if count >= limit:
                tally.drop(NO_ROOM)
            else:
                tally.keep(len(ids), limit)
                yield {
                    "prompt_ids": ids[:count],
                    "completion_ids": ids[count:limit],
                    "label": one.label,
                }

    # Classes -----------------------------------------------------------------------------------

    def _labelled(self, rows: Rows, tally: Tally) -> Iterator[Columns]:
        examples = [(row.place, e) for row, e in rows if isinstance(e, Labelled)]
        encoder = LabelledEncoder(self._tokenizer, self._config.max_length)
        for (_, example), tokens in zip(examples, encoder.encode(examples), strict=True):
            if not tokens.ids:
                tally.drop(EMPTY)
                continue
            tally.keep(tokens.length, encoder.limit)
            tally.several += example.is_list
            for label in example.labels:
                tally.labels[label] = tally.labels.get(label, 0) + 1
            yield {
                "input_ids": tokens.ids,
                "token_type_ids": tokens.segments,
                "label": list(example.labels),
            }

    # Prompts -----------------------------------------------------------------------------------

    def _prompt_batch(self, rows: Rows, tally: Tally) -> pa.RecordBatch:
        """Return prompts as they are: rewards read them, and TRL puts the template on itself."""
        begun = self._begun()
        prompts = [(row.place, begun(e)) for row, e in rows if isinstance(e, Prompt)]
        # Behind a prompt that fills max_length nothing of any answer would be seen.
        limit = self._config.max_length - self._config.max_completion_length + 1
        lengths = self._lengths([(place, example.prompt) for place, example in prompts], tally)
        kept = []
        for (_, example), length in zip(prompts, lengths, strict=True):
            if length >= limit:
                tally.drop(NO_ROOM)
            else:
                tally.keep(length, None)
                kept.append({**example.others, "prompt": _plain(example.prompt)})
        if not kept:
            return pa.RecordBatch.from_pylist([], schema=self._prompts)
        # A column that only some rows have is there for all of them, and empty in the others.
        names = dict.fromkeys(name for row in kept for name in row)
        try:
            batch = pa.RecordBatch.from_pylist([dict.fromkeys(names) | row for row in kept])
            schemas = [self._prompts, batch.schema]
            self._prompts = pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"{rows[0][0].place} and the rows after it are not laid out as those before: "
                f"{error}.",
                "Give every column texts only, or lists of messages only, in all rows.",
            ) from error
        return batch

    def _begun(self) -> Callable[[Prompt], Prompt]:
        """Return what takes the first token from texts that have it, for TRL puts it there again."""
        bos = self._tokenizer.bos_token
        puts_it = leading_tokens(self._tokenizer) == [self._tokenizer.bos_token_id]

        def begun(example: Prompt) -> Prompt:
            if not puts_it or not isinstance(example.prompt, str):
                return example
            return replace(example, prompt=example.prompt.removeprefix(bos))

        return begun

    def _lengths(self, prompts: list[tuple[str, Said]], tally: Tally) -> list[int]:
        if not prompts:
            return []
        template = ChatTemplate(self._tokenizer)
        texts = []
        for place, said in prompts:
            if isinstance(said, str):
                texts.append(said)
                continue
            with template.refusals(place, said):
                texts.append(template.render(said, [], prompt=True))
        start = len(leading_tokens(self._tokenizer))
        counted = tokens_of(self._tokenizer, texts)["input_ids"]
        tally.highest = max(tally.highest, *(max(ids, default=0) for ids in counted))
        return [
            len(ids) + (start if isinstance(said, str) else 0)
            for ids, (_, said) in zip(counted, prompts, strict=True)
        ]


def in_batches(rows: Iterable[tuple[Row, Example]]) -> Iterator[Rows]:
    """Yield the rows in batches that fit into memory."""
    batch: Rows = []
    characters = 0
    for row, example in rows:
        batch.append((row, example))
        characters += example.characters
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def with_same_columns(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches that may have other columns each with all of them; for prompts, which are few."""
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    table = pa.concat_tables(tables, promote_options="permissive")
    yield from table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]


def _highest(batch: pa.RecordBatch) -> int:
    """Return the highest token of all columns that hold tokens."""
    columns = (batch.column(name) for name in batch.schema.names if name.endswith("ids"))
    found = (pc.max(column.flatten()).as_py() for column in columns)
    return max((number for number in found if number is not None), default=0)


def _plain(said: Said) -> Said:
    if isinstance(said, str):
        return said
    return [{name: message[name] for name in SAID} for message in said]


def _further(messages: Iterable[Message]) -> Iterator[str]:
    return (key for message in messages for key in message if key not in SAID)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    table = pa.Table.from_batches(list(with_same_columns(batches))).combine_chunks()
    return next(iter(table.to_batches()), pa.RecordBatch.from_pylist([], schema=table.schema))


def limit_of(config: TrainingConfig) -> int | None:
    """Return where rows are cut; documents that are to be joined and cut into blocks stay whole."""
    return None if config.method == "cpt" and config.packs else config.max_length


def _each(example: Example) -> Iterable[Judged]:
    """Return the answers: a pair says of one that it is good, of the other that it is bad."""
    match example:
        case Preference(prompt, chosen, rejected, tools):
            return (
                Judged(prompt, chosen, label=True, tools=tools),
                Judged(prompt, rejected, label=False, tools=tools),
            )
        case Judged():
            return (example,)
        case _:
            raise TypeError(f"{type(example).__name__} is no judged answer")


def _note(turns: Turns, tally: Tally) -> None:
    tally.note(FORGOTTEN, turns.forgotten)
    tally.note(VARIED, turns.varied)
