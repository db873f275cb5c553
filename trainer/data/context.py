"""What a row holds beside its layout and every chat may have: tools, a system message, turns before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.data.calls import parsed, tools_of
from trainer.data.problems import RowProblem, a_text, kind_of_value
from trainer.data.turns import ONLY_TEXT, Message

NAMES = {
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "tools": ("tools", "functions"),
}
"""The columns, each by our name and then those that are usual elsewhere."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Columns that a text would be learned without."""
MAGIC = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*"),
    *(b"OggS", b"ID3", b"fLaC", b"\x1aE\xdf\xa3"),
)
"""How files of pictures, films and sounds begin: https://en.wikipedia.org/wiki/List_of_file_signatures"""
PAIRS = "a list of [question, answer]"


@dataclass(frozen=True)
class Context:
    """What comes before a chat; empty where the row has nothing of it."""

    system: str = ""
    history: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)
    """How the row calls what it has, by our names."""

    def __bool__(self) -> bool:
        return bool(self.names)

    def before(self, messages: list[Message]) -> list[Message]:
        """Return the messages behind the system message and the history.

        Raises:
            RowProblem: they have another system message.
        """
        first = [m["content"] for m in messages[:1] if m["role"] == "system"]
        if first and self.system and first != [self.system]:
            raise RowProblem(
                self.names["system"],
                "says something else than the system message of the chat",
                "keep one of the two",
            )
        system = self.system or "".join(first)
        start = [{"role": "system", "content": system}] if system else []
        return [*start, *self.history, *messages[len(first) :]]


def context_of(
    row: Mapping[str, Any], columns: Mapping[str, str], used: Collection[str]
) -> Context:
    """Return what a row has beside its layout.

    Args:
        row: the row.
        columns: the dataset's names by ours, as the job gives them.
        used: the columns that are its layout's.

    Raises:
        RowProblem: it is not what its name says.
    """
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for ours, usual in NAMES.items():
        for name in (columns[ours],) if ours in columns else usual:
            value = _read(ours, row[name], name) if name in row and name not in used else None
            if not value:
                continue
            if ours in names:
                raise RowProblem(name, f"is there beside {names[ours]}", "keep one of the two")
            found[ours], names[ours] = value, name
    return Context(**found, names=names)


def refuse_media(row: Mapping[str, Any], used: Collection[str]) -> None:
    """Refuse a row that is about something that only a text is learned of.

    Raises:
        RowProblem: it has a picture, a film or a sound.
    """
    for name, value in row.items():
        if name not in used and ((name in MEDIA and value) or _is_media(value)):
            raise RowProblem(
                name,
                f"would be lost, for {ONLY_TEXT}",
                "remove the column if the text is meant without it",
            )


def _is_media(value: Any) -> bool:
    """Whether a value is a file's content, whatever its column is called."""
    if isinstance(value, list):
        return any(map(_is_media, value))
    # So do tables hold them: https://huggingface.co/docs/datasets/about_dataset_features
    content = value.get("bytes") if isinstance(value, dict) else value
    return isinstance(content, bytes) and (
        content.startswith(MAGIC) or content[4:8] == b"ftyp"  # MP4 and its kin
    )


def columns_of(columns: Mapping[str, str]) -> set[str]:
    """Return the names of all columns that are read here."""
    return {
        name
        for ours, usual in NAMES.items()
        for name in ((columns[ours],) if ours in columns else usual)
    }


def _read(ours: str, value: Any, name: str) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    match ours:
        case "system":
            return a_text(value, name)
        case "tools":
            return tools_of(value, name)
        case _:
            return _history(parsed(value, name, PAIRS), name)


def _history(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise RowProblem(name, f"is {kind_of_value(value)}", f"give {PAIRS}")
    turns: list[Message] = []
    for i, pair in enumerate(value):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowProblem(f"{name}[{i}]", f"is {kind_of_value(pair)}", f"give {PAIRS}")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            turns.append({"role": role, "content": a_text(said, f"{name}[{i}]")})
    return turns
