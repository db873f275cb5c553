"""A chat template of the user's own: a file, or a well-known one by name. Standard library only."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from trainer.contract.errors import ConfigError

FIELD = "training.chat_template"
SUFFIX = ".jinja"
NOT_WHOLE = "_training"  # TRL's variants with marks for the trainer, which nobody generates with


def is_file(template: str) -> bool:
    """Whether a template is named by its file: whatever has a suffix or a folder."""
    return template.endswith(SUFFIX) or "/" in template or template.startswith((".", "~"))


def template_text(template: str) -> str:
    """Return the text of a template.

    Args:
        template: a file of Jinja, or the name of one that TRL ships, such as qwen3 or llama3.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = Path(template).expanduser() if is_file(template) else _shipped(template)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"{FIELD} = {template!r}: {path}: {why}.", "Name a file of Jinja."
        ) from None
    if "messages" not in text:
        raise ConfigError(
            f"{FIELD} = {template!r}: the template never reads `messages`, so it would show no chat.",
            "Write it as transformers expects: for message in messages …",
        )
    return text


def names() -> list[str]:
    """Return the names of the templates that TRL ships, sorted; none where TRL is not installed."""
    found = importlib.util.find_spec("trl")  # without importing it, which takes seconds
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    there = [path for folder in folders for path in folder.glob(f"chat_templates/*{SUFFIX}")]
    return sorted(path.stem for path in there if not path.stem.endswith(NOT_WHOLE))


def _shipped(name: str) -> Path:
    known = names()
    found = importlib.util.find_spec("trl")
    if name in known and found and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0]) / "chat_templates" / f"{name}{SUFFIX}"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"{FIELD} = {name!r}: there is no template of that name.",
        f"{hint}Name a file, such as ./mine{SUFFIX}, or one of: {', '.join(known)}.",
    )
