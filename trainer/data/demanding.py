"""Rows that ask more of a chat template than that two speak in turns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from trainer.config import TrainingConfig
from trainer.data.formats import Chat, Example
from trainer.data.judged import Judged, Preference, Prompt, Said
from trainer.data.labelled import Labelled
from trainer.data.parsing import Row
from trainer.data.reading import open_training
from trainer.data.turns import END_OF_THOUGHTS, Message
from trainer.data.validation import CheckedReading

LOOKED_AT = 1000  # rows of a data set, so that a large file is not read once more


def demanding_rows(config: TrainingConfig) -> Iterator[tuple[Row, Example]]:
    """Yield those of a dataset's first rows that a template may refuse or leave something out of."""
    for dataset in config.dataset.each():
        one = config.model_copy(update={"dataset": dataset})
        for row, example in islice(CheckedReading(open_training(dataset), one), LOOKED_AT):
            if getattr(example, "tools", None) or _is_demanding(messages_of(example)):
                yield row, example


def messages_of(example: Example) -> list[Message]:
    """Return every message of an example, none where it is of texts."""
    match example:
        case Chat(messages):
            return messages
        case Preference(prompt, chosen, rejected):
            said: tuple[Said, ...] = (prompt, chosen, rejected)
        case Judged(prompt, completion):
            said = (prompt, completion)
        case Prompt(prompt):
            said = (prompt,)
        case Labelled():
            return example.messages
        case _:
            return []
    return [message for each in said if not isinstance(each, str) for message in each]


def _is_demanding(messages: list[Message]) -> bool:
    return any(
        message["role"] not in {"user", "assistant"}
        or message.keys() > {"role", "content"}
        or END_OF_THOUGHTS in message.get("content", "")
        for message in messages
    )
