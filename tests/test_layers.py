"""Imports point downward only, between packages and between their folders, in no circle."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainer", "blocks", "flows", "deployments", "gateway")
ALLOWED = {
    "trainer": {"trainer"},
    "blocks": {"blocks", "trainer"},
    "flows": {"flows", "blocks", "trainer"},
    "deployments": {"deployments", "flows", "blocks", "trainer"},
    "gateway": {"gateway", "deployments", "flows", "blocks", "trainer"},
}
ROOMS = (
    *("contract", "courier", "config", "supervision", "engine", "data", "rewards", "methods"),
    *("presets", "results", "preflight", "training", "command"),
)
"""The trainer's folders; each imports what stands before it, and itself."""
CHAPTERS = (
    *("scheduling", "setup", "renting", "reporting", "job_events", "notifying", "streaming"),
    *("batches", "tasks"),
)
"""The folders of the flows, in the same order: each imports what stands before it, and itself.

The modules beside them, directly in flows/, may import any of them, and any of them those.
"""
STOREYS = ("secrets", "notifiers", "stores", "machines", "workplaces", "providers")
"""The folders of the blocks, in the same order."""
FOR_ALL = {
    "contract",
    "courier",
    "config",
    "data",
    "preflight",
    "presets",
    "results",
    "rewards",
    "supervision",
}
"""The rooms that an orchestrator may import; none of them imports torch by being imported."""
STANDARD_LIBRARY_ONLY = ("contract", "courier", "supervision")


def modules(*packages: str) -> dict[str, Path]:
    """Return every module of these packages by its dotted name."""
    found = {}
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules(*PACKAGES)


@functools.cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Return what a file imports anywhere in it, modules of ours by their full names."""
    return tuple(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


FOLDERS = {"trainer": ROOMS, "flows": CHAPTERS, "blocks": STOREYS}


def folder(module: str, package: str) -> str | None:
    """Return the folder of this package that a module lies in."""
    top, _, rest = module.partition(".")
    inner = rest.split(".")[0]
    return inner if top == package and inner in FOLDERS[package] else None


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_downward(package):
    upward = [
        (module, name)
        for module, path in modules(package).items()
        for name in imports_of(path)
        if name.split(".")[0] in ALLOWED and name.split(".")[0] not in ALLOWED[package]
    ]

    assert upward == []


@pytest.mark.parametrize("package", FOLDERS)
def test_every_folder_has_its_place_in_the_order(package):
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}

    assert folders == set(FOLDERS[package])


@pytest.mark.parametrize("package", FOLDERS)
def test_the_folders_of_a_package_import_downward(package):
    order = FOLDERS[package]
    upward = [
        (module, name)
        for module, path in modules(package).items()
        for name in imports_of(path)
        if (here := folder(module, package))
        and (there := folder(name, package))
        and order.index(there) > order.index(here)
    ]

    assert upward == []


def test_flows_know_no_machines_only_places_to_train():
    reached = [
        (module, name)
        for module, path in modules("flows").items()
        for name in imports_of(path)
        if name.startswith("blocks.machines")
    ]

    assert reached == []


def test_no_modules_import_each_other_in_a_circle():
    imported = {
        module: {name for name in imports_of(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }

    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


def test_no_two_classes_have_one_name():
    places = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)

    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("package", sorted(set(PACKAGES) - {"trainer"}))
def test_only_the_trainers_outer_rooms_are_imported_from_above(package):
    inner = [
        (module, name)
        for module, path in modules(package).items()
        for name in imports_of(path)
        if name.startswith("trainer.") and folder(name, "trainer") not in FOR_ALL
    ]

    assert inner == []


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_some_rooms_need_the_standard_library_alone(name):
    """Import every module of the room where nothing else can be imported."""
    names = [module for module in MODULES if folder(module, "trainer") == name]
    probe = (
        "import importlib, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] not in sys.stdlib_module_names | {'trainer'}:\n"
        "            raise ImportError(f'{name} is not in the standard library')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"for name in {[*names, 'trainer.__main__']!r}: importlib.import_module(name)\n"
    )

    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT)

    assert len(names) > 1
    assert result.returncode == 0, result.stderr


def test_the_trainer_never_imports_prefect():
    named = [
        module
        for module, path in modules("trainer").items()
        if "prefect" in {name.split(".")[0] for name in imports_of(path)}
    ]

    assert named == []


HEAVY = ("torch", "transformers", "datasets", "pandas")
SDKS = ("boto3", "botocore", "google.auth", "azure.core", "azure.identity", "obstore", "requests")
"""What single clouds and stores need: half a second and dozens of MB each."""


@pytest.mark.parametrize(
    ("probe", "unwanted"),
    [
        # As the process of a local job does; Prefect finds the blocks of all providers by itself.
        (
            "import prefect, blocks, flows.execute, flows.train, deployments.deploy, gateway.cli\n"
            "from blocks.registry import PROVIDERS, provider_class\n"
            "[provider_class(name) for name in PROVIDERS]",
            (*HEAVY, *SDKS),
        ),
        (
            "import contextlib, io\n"
            "sys.argv = ['trainctl', '--help']\n"
            "from gateway.cli import main\n"
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()",
            (*HEAVY, *SDKS, "prefect", "fastapi"),
        ),
    ],
    ids=["local job", "help"],
)
def test_nothing_large_is_imported_before_it_is_used(probe, unwanted):
    ends = f"print([name for name in {unwanted!r} if name in sys.modules])"

    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{probe}\n{ends}"], capture_output=True, text=True
    )

    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
