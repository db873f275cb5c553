"""Tables of plain text that fit the terminal: no line wraps, and what is cut says so."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from gateway.exits import say
from gateway.view import COLOURS

PLAIN_WIDTH = 80  # where no terminal says how wide it is
SHORTEST = 8  # characters that a name keeps, however narrow the terminal is
KEPT = 20  # characters of a name that are worth more than another column
CUT = "…"

Rows = Sequence[Sequence[str]]


def print_table(
    head: Sequence[str], rows: Rows, *, named: int | None = None, least: Sequence[str] = ()
) -> None:
    """Print rows under a head, in columns as wide as they are.

    Args:
        head: the columns' names.
        rows: a cell for each column.
        named: the column whose cells may be cut on a terminal.
        least: columns to leave out, the first first, while the table is too wide.
    """
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if terminal else PLAIN_WIDTH
    name = None if named is None else head[named]
    head, rows = without(head, rows, width, named=named, least=least)
    named = None if name is None else head.index(name)
    # A pipe gets names in full: programs read them.
    if terminal and named is not None:
        rows = shortened(head, rows, width, named)
    lines = [padded(cells, _widths(head, rows)) for cells in [head, *rows]]
    if terminal:
        _print_coloured(lines)
        return
    for line in lines:
        say("  ".join(line).rstrip())


def without(
    head: Sequence[str],
    rows: Rows,
    width: int,
    *,
    named: int | None,
    least: Sequence[str],
) -> tuple[Sequence[str], Rows]:
    """Return the table without the columns of `least` that must go for it to fit."""
    for name in least:
        widths = _widths(head, rows)
        if named is not None:
            # A long name alone is no reason to drop a column: it can be cut.
            widths[named] = min(widths[named], KEPT)
        if _total(widths) <= width:
            break
        gone = head.index(name)
        if named is not None and gone < named:
            named -= 1
        head = [cell for i, cell in enumerate(head) if i != gone]
        rows = [[cell for i, cell in enumerate(cells) if i != gone] for cells in rows]
    return head, rows


def shortened(head: Sequence[str], rows: Rows, width: int, named: int) -> Rows:
    """Return the rows with the cells of one column cut until a line fits."""
    widths = _widths(head, rows)
    room = max(SHORTEST, widths[named] - max(0, _total(widths) - width))
    return [
        [cut(cell, room) if i == named else cell for i, cell in enumerate(cells)] for cells in rows
    ]


def cut(text: str, room: int) -> str:
    """Return text in at most `room` cells of a terminal; what is cut ends in …."""
    if cells_of(text) <= room:
        return text
    # One cell at a time, because a character may take two.
    while cells_of(text) > room - 1:
        text = text[:-1]
    return f"{text}{CUT}"


def padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return cells filled up with blanks."""
    return [
        cell + " " * (width - cells_of(cell)) for cell, width in zip(cells, widths, strict=True)
    ]


def cells_of(text: str) -> int:
    """Return how many cells of a terminal a text takes; a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # seldom needed

    return cell_len(text)


def _widths(head: Sequence[str], rows: Rows) -> list[int]:
    return [max(map(cells_of, column)) for column in zip(head, *rows, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _print_coloured(lines: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for number, cells in enumerate(lines):
        text = Text("  ").join(
            # A state is recognised by its word in any column; the first row is the head.
            Text(cell, style=COLOURS.get(cell.strip(), "") if number else "bold")
            for cell in cells
        )
        text.rstrip()
        console.print(text, soft_wrap=True)
