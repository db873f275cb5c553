"""Every Python process of ours is started so that it imports nothing from the working folder."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.contract import own_python as own
from trainer.contract.own_python import own_python

ROOT = Path(__file__).parents[3]
PACKAGES = ("blocks", "deployments", "examples", "flows", "gateway", "trainer")
STARTERS = {"-m", "-c"}
NO_PYTHON = {"sh", "bash", "/bin/sh", "stat", "wc"}


def words_of(node: ast.AST) -> list[str] | None:
    """Return the words of a command line in the source, a call's own words included."""
    match node:
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Call(args=parts):
            return [str(p.value) for p in parts if isinstance(p, ast.Constant)]
        case _:
            return None


def started_from_anywhere(path: Path) -> Iterator[str]:
    """Yield where a file starts a Python that looks into the working folder."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "own_python"
        for part in ast.walk(node)
    }
    names = {  # words that are given to own_python by a name
        arg.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "own_python"
        for arg in node.args
        if isinstance(arg, ast.Starred) and isinstance(arg.value, ast.Name)
    }
    guarded |= {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and {getattr(t, "id", "") for t in node.targets} & names
    }
    for node in ast.walk(tree):
        words = words_of(node)
        if words is None or id(node) in guarded:
            continue
        if STARTERS & set(words) and not {"-P"} & set(words) and not NO_PYTHON & set(words):
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_of_ours_starts_a_python_in_another_way(package):
    assert [
        place
        for path in (ROOT / package).rglob("*.py")
        if path.name != "own_python.py"
        for place in started_from_anywhere(path)
    ] == []


def test_the_makefile_starts_ours_so_too():
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "python -m " in line]

    assert [line for line in lines if "-m pytest" not in line] == []


def test_what_lies_in_the_working_folder_is_not_imported(tmp_path: Path):
    (tmp_path / "json.py").write_text("raise SystemExit('hostile')")
    words = ("-c", "import json; print(json.__file__)")

    plain, ours = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        for command in ([sys.executable, *words], own_python(*words))
    )

    assert plain.stderr == "hostile\n"
    assert ours.returncode == 0, ours.stderr


def test_the_working_folder_leaves_the_python_path_and_comes_back_for_the_users_commands(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv(own.GIVEN_PATHS, raising=False)
    monkeypatch.setenv(own.PATHS, f":/opt/x{os.pathsep}.")

    own.forget_working_folder()
    own.forget_working_folder()
    monkeypatch.setenv(own.GIVEN_PATHS, os.environ[own.GIVEN_PATHS])  # undone after the test

    assert os.environ[own.PATHS] == "/opt/x"
    assert own.users_variables()[own.PATHS] == ":/opt/x:."


def test_a_safe_path_of_ours_does_not_reach_the_users_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "helper.py").write_text("VALUE = 7")
    monkeypatch.setenv(own.SAFE_PATH, "1")
    command = [sys.executable, "-c", "import helper, json; print(json.dumps(helper.VALUE))"]

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **own.users_variables()},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (0, f"{json.dumps(7)}\n"), done.stderr
