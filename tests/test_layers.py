"""Imports point downward only: gateway → flows → blocks → the trainer's contract."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACT = {
    "checkpoints",
    "config",
    "custom_code",
    "data",
    "errors",
    "explain",
    "extras",
    "files",
    "gguf",
    "hub",
    "job_directory",
    "manifest",
    "methods",
    "metrics",
    "model",
    "model_card",
    "own_python",
    "presets",
    "rewards",
    "summary",
    "verdict",
    "words",
}
"""The trainer's modules that an orchestrator may import; none of them imports torch."""
ALLOWED = {
    "trainer": {"trainer"},
    "blocks": {"blocks", "trainer"},
    "flows": {"flows", "blocks", "trainer"},
    "deployments": {"deployments", "flows", "blocks", "trainer"},
    "gateway": {"gateway", "flows", "blocks", "trainer"},
}
STANDARD_LIBRARY_ONLY = {
    "errors",
    "files",
    "manifest",
    "job_directory",
    "metrics",
    "checkpoints",
    "wish",
    "words",
    "network",
    "own_python",
    "verdict",
    "supervisor",
    "ranks",
    "__main__",
    "foreign/plan",
    "foreign/reading",
    "foreign/keeping",
    "foreign/program",
    "foreign/__main__",
}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_downward(package):
    upward = [
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / package).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in ALLOWED and name.split(".")[0] not in ALLOWED[package]
    ]

    assert upward == []


@pytest.mark.parametrize("package", sorted(set(ALLOWED) - {"trainer"}))
def test_only_the_trainers_contract_is_imported_from_above(package):
    inner = [
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / package).rglob("*.py")
        for name in imports_of(path)
        if name.startswith("trainer.") and name.split(".")[1] not in CONTRACT
    ]

    assert inner == []


@pytest.mark.parametrize("module", sorted(STANDARD_LIBRARY_ONLY))
def test_the_supervisors_modules_use_the_standard_library_alone(module):
    foreign = [
        name
        for name in imports_of(ROOT / "trainer" / f"{module}.py")
        if name.split(".")[0] not in sys.stdlib_module_names | {"trainer"}
    ]

    assert foreign == []


def test_the_trainer_never_imports_prefect():
    named = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "trainer").rglob("*.py")
        if "prefect" in {name.split(".")[0] for name in imports_of(path)}
    ]

    assert named == []


def test_the_orchestrator_runs_without_torch():
    probe = (
        "import sys, flows.execute, deployments.deploy, gateway.cli\n"
        "assert not {'torch', 'transformers', 'datasets', 'pandas'} & sys.modules.keys()\n"
    )

    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
