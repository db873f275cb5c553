"""Draw docs/images/architecture.svg from the code: packages, their folders, and who imports whom.

A box imports only boxes after it, as one reads; its words are the first line of its docstring. A
test compares the picture with the code, so it cannot go out of date:

    python docs/draw_architecture.py
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = ("gateway", "deployments", "flows", "blocks", "trainer")
"""From the ways in down to what runs on the GPU machine."""
COLOURS = {
    "gateway": "#2563eb",
    "deployments": "#7c3aed",
    "flows": "#0d9488",
    "blocks": "#ca8a04",
    "trainer": "#dc2626",
}
WIDTH, MARGIN, GAP = 1200, 24, 12
COLUMNS = 5
TITLE, LINE, PADDING = 44, 15, 10  # heights in pixels
LETTER = 6.1  # pixels of an average letter of the small print


def main() -> int:
    """Write the picture; return the exit code."""
    PICTURE.write_text(picture(), encoding="utf-8")
    sys.stdout.write(f"wrote {PICTURE.relative_to(ROOT)}\n")
    return 0


def picture() -> str:
    """Return the SVG."""
    parts: list[str] = []
    y = MARGIN
    for package in PACKAGES:
        drawn, height = _package(package, y)
        parts += drawn
        y += height + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + MARGIN}" '
        f'width="{WIDTH}" height="{y + MARGIN}" font-family="system-ui, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{y + MARGIN}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _package(package: str, y: int) -> tuple[list[str], int]:
    """Return the drawing of one package from `y` down, and its height."""
    colour, inner = COLOURS[package], WIDTH - 2 * MARGIN - 2 * PADDING
    top, rows = y + TITLE, []
    for row in _rows(package):
        width = (inner - GAP * (COLUMNS - 1)) / COLUMNS
        words = [textwrap.wrap(docstring(box), int((width - 2 * PADDING) / LETTER)) for box in row]
        height = 2 * PADDING + LINE * (1 + max(map(len, words)))
        for i, (box, lines) in enumerate(zip(row, words, strict=True)):
            x = MARGIN + PADDING + i * (width + GAP)
            rows += _box(_shown(box), lines, x, top, width, height, colour)
        top += height + GAP
    height = top - y
    below = ", ".join(sorted(imported(package))) or "nothing of the others"
    frame = [
        f'<rect x="{MARGIN}" y="{y}" width="{WIDTH - 2 * MARGIN}" height="{height}" rx="8" '
        f'fill="{colour}" fill-opacity="0.07" stroke="{colour}"/>',
        _text(MARGIN + PADDING, y + 20, f"{package}/", 16, colour, bold=True),
        _text(MARGIN + PADDING, y + 36, docstring(ROOT / package), 12, "#3f3f46"),
        f'<text x="{WIDTH - MARGIN - PADDING}" y="{y + 20}" font-size="12" text-anchor="end" '
        f'fill="#3f3f46">imports {escape(below)}</text>',
    ]
    return [*frame, *rows], height


def _box(
    name: str, lines: list[str], x: float, y: float, width: float, height: float, colour: str
) -> list[str]:
    return [
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" rx="5" fill="#ffffff" '
        f'stroke="{colour}" stroke-opacity="0.5"/>',
        _text(x + PADDING, y + PADDING + 11, name, 13, "#18181b", bold=True),
        *(
            _text(x + PADDING, y + PADDING + 11 + LINE * (i + 1), line, 11, "#52525b")
            for i, line in enumerate(lines)
        ),
    ]


def _text(x: float, y: float, text: str, size: int, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'


def _shown(box: Path) -> str:
    return f"{box.name}/" if box.is_dir() else box.name


def _rows(package: str) -> list[list[Path]]:
    """Return the package's boxes in rows, those that import the others first."""
    boxes = boxes_of(package)
    level: dict[Path, int] = {}

    def rank(box: Path) -> int:
        if box not in level:
            level[box] = 0  # a circle would end here; a test forbids them
            level[box] = 1 + max((rank(b) for b in _imports_of_box(box, boxes)), default=-1)
        return level[box]

    for box in boxes:
        rank(box)
    ordered = sorted(boxes, key=lambda box: -level[box])
    return [ordered[i : i + COLUMNS] for i in range(0, len(ordered), COLUMNS)]


def boxes_of(package: str) -> list[Path]:
    """Return the folders of a package, and its modules where it has few folders."""
    folder = ROOT / package
    folders = [path.parent for path in sorted(folder.glob("*/__init__.py"))]
    modules = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("__")]
    return [*folders, *modules]


def imported(package: str) -> set[str]:
    """Return the packages of ours that a package imports."""
    names = {name.split(".")[0] for path in _files(ROOT / package) for name in imports_of(path)}
    return (names & set(PACKAGES)) - {package}


def _imports_of_box(box: Path, boxes: list[Path]) -> list[Path]:
    names = {name for path in _files(box) for name in imports_of(path)}
    return [other for other in boxes if other != box and any(_within(n, other) for n in names)]


def _within(name: str, box: Path) -> bool:
    module = ".".join(box.relative_to(ROOT).with_suffix("").parts)
    return name == module or name.startswith(f"{module}.")


def _files(box: Path) -> list[Path]:
    return sorted(box.rglob("*.py")) if box.is_dir() else [box]


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return what a file imports, names within modules included."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def docstring(box: Path) -> str:
    """Return the first line of a folder's or a module's docstring."""
    path = box / "__init__.py" if box.is_dir() else box
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
