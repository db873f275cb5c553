"""A job that somebody is writing: its YAML, with comments and all, and the form's fields over it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from flows.job_file import parse_yaml
from gateway.page.new_job.fields import fields
from trainer.config import TrainingJob
from trainer.config.explain import Fault
from trainer.contract.errors import ConfigError

NAME = "The YAML"
MOST_VALUES = 10_000
"""In a job; aliases of aliases make any number of them from a short text."""
REMEDY = "Write it as a job file has it."


class Draft:
    """The text of a job file, which the form's fields change in their places."""

    def __init__(self, text: str) -> None:
        """Read a text.

        Raises:
            ConfigError: it is not valid YAML, or no mapping.
        """
        value = parse_yaml(text, NAME) if _holds_something(text) else {}
        if not isinstance(value, dict):
            raise ConfigError(f"{NAME}: holds a {type(value).__name__}, and no fields.", REMEDY)
        if _size(value, MOST_VALUES) > MOST_VALUES:
            raise ConfigError(f"{NAME}: holds more than {MOST_VALUES} values.", REMEDY)
        self.value: dict[str, Any] = value
        """What the text holds, as plain values."""
        self.text = text
        self._tree: CommentedMap | None = None

    def filled_in(self) -> dict[str, str]:
        """Return what the form shows in its fields, by their paths; one that is left out is empty."""
        return {
            path: field.shown(found[0]) if (found := _at(self.value, path)) else ""
            for path, field in fields().items()
        }

    def change(self, path: str, text: str) -> Fault | None:
        """Write what somebody filled in for a field into the text; return why that cannot be."""
        field = fields()[path]
        *above, name = path.split(".")
        if not text.strip():
            self._remove(above, name)
        else:
            tree = self._settings(above)
            if tree is None:
                where = ".".join(above)
                return Fault(path, f"{path}: {where} has no fields in the YAML: change it there")
            _put(tree, name, field.value(text), ".".join(above))
        self._write()
        return None

    def _settings(self, names: list[str]) -> CommentedMap | None:
        """Return the settings of a path, made where there are none; None: there is something else."""
        tree = self._whole()
        for depth, name in enumerate(names):
            below = tree.get(name)
            if below is None:
                below = CommentedMap()
                _put(tree, name, below, ".".join(names[:depth]))
            elif isinstance(below, str) and names[: depth + 1] == ["training", "dataset"]:
                below = tree[name] = CommentedMap({"path": below})  # the short form of it
            if not isinstance(below, CommentedMap):
                return None
            tree = below
        return tree

    def _remove(self, names: list[str], name: str) -> None:
        above: list[tuple[CommentedMap, str]] = []
        tree: Any = self._whole()
        for each in names:
            if not isinstance(tree, CommentedMap):
                return
            above.append((tree, each))
            tree = tree.get(each)
        if isinstance(tree, str) and (*names, name) == ("training", "dataset", "path"):
            above[-1][0].pop(above[-1][1])
            return
        if not isinstance(tree, CommentedMap):
            return
        tree.pop(name, None)
        for holder, each in reversed(above):  # settings of which none is left would be null
            if not holder[each]:
                holder.pop(each)

    def _whole(self) -> CommentedMap:
        if self._tree is None:
            self._tree = (_yaml().load(self.text) if self.value else None) or CommentedMap()
        return self._tree

    def _write(self) -> None:
        stream = io.StringIO()
        if tree := self._whole():
            _yaml().dump(tree, stream)
        self.text = stream.getvalue()
        self.value = parse_yaml(self.text, NAME) if tree else {}


def merged(text: str, before: str, given: Mapping[str, str]) -> tuple[Draft, list[Fault]]:
    """Return the draft after what somebody changed, in the YAML or in the fields, and what cannot be.

    Args:
        text: the YAML as it is now.
        before: as it was when the fields were filled from it.
        given: the fields as they are now, by their paths. Those that are as they were leave the YAML
            as it is.

    Raises:
        ConfigError: the YAML is none.
    """
    draft = Draft(text)
    was = Draft(before).filled_in()
    known = [path for path in fields() if path in given]
    changed = {path: given[path] for path in known if _plain(given[path]) != _plain(was[path])}
    found = [draft.change(path, value) for path, value in changed.items()]
    return draft, [fault for fault in found if fault]


def _plain(text: str) -> str:
    # Browsers send lines with another end than they were given.
    return text.replace("\r\n", "\n").strip()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _holds_something(text: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def _at(value: Any, path: str) -> tuple[Any] | None:
    """Return what is at a path, in a tuple; None: nothing is."""
    for name in path.split("."):
        if path == "training.dataset.path" and name == "path" and isinstance(value, str):
            return (value,)
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return (value,)


def _put(tree: CommentedMap, name: str, value: Any, above: str) -> None:
    """Set a field in its place: after those that come before it in the model."""
    if name in tree:
        tree[name] = value
        return
    order = _order(above)
    before = order[: order.index(name)]
    place = max((i for i, one in enumerate(tree, 1) if one in before), default=0)
    tree.insert(place, name, value)


def _order(above: str) -> list[str]:
    """Return the names of the fields of some settings, in the model's order."""
    prefix = f"{above}." if above else ""
    paths = (path.removeprefix(prefix) for path in fields() if path.startswith(prefix))
    found = list(dict.fromkeys(path.partition(".")[0] for path in paths))
    return found if above else list(TrainingJob.model_fields)


def _size(value: Any, most: int) -> int:
    """Return how many values there are, or some number above the most."""
    count, open_ones = 0, [value]
    while open_ones and count <= most:
        one = open_ones.pop()
        count += 1
        if isinstance(one, dict):
            open_ones += one.values()
        elif isinstance(one, list):
            open_ones += one
    return count
