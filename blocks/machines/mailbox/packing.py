"""The agent as one file that `python3` runs, and the lines of sh that start it on a machine."""

from __future__ import annotations

import ast
import base64
import io
import json
import shlex
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from blocks.machines.mailbox.agent.saving import TAKEN_BACK
from blocks.machines.shell import FOLDER
from trainer.courier import cloud_role

HOME = f"~/{FOLDER}"
WAYS = frozenset({"libraries", "roles", "signed"})
PACKAGE = "blocks/machines/mailbox/agent"
ROLE = f"from {cloud_role.__name__} import CloudRole\n"
_DATE = (1980, 1, 1, 0, 0, 0)  # always the same, so that the same agent is the same file
_RUN = f"import runpy\n\nrunpy.run_module('{PACKAGE.replace('/', '.')}.__main__', run_name='__main__')\n"


SHUTDOWN_COMMAND = f"kill -USR1 $(cat {HOME}/agent.pid)"
"""A line of sh by which a machine whose first process is the agent ends itself."""
NOTICE_COMMAND = f"until [ -e {HOME}/{TAKEN_BACK} ]; do sleep 1; done"
"""A line of sh that waits until such a machine is being taken back."""


@cache
def packed(way: str = "libraries") -> bytes:
    """Return the agent.

    Args:
        way: the module by which it gets at its mailbox: libraries, roles or signed.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:

        def add(name: str, text: str) -> None:
            archive.writestr(zipfile.ZipInfo(name, _DATE), text, zipfile.ZIP_DEFLATED, 9)

        add("__main__.py", _RUN)
        folder = Path(PACKAGE)
        for above in list(folder.parents)[:-1]:
            add(f"{above}/__init__.py", "")
        needless = {f"{other}.py" for other in WAYS - {way}}
        for path in sorted((Path(__file__).parent / "agent").glob("*.py")):
            if path.name in needless:
                continue
            text = _bare(path.read_text(encoding="utf-8"))
            # Within it, because each further file of an archive takes a hundred bytes.
            add(f"{PACKAGE}/{path.name}", text.replace(ROLE, _role()))
    return content.getvalue()


def _role() -> str:
    """Return what an agent with a role shares with the courier of a job."""
    text = _bare(Path(cloud_role.__file__).read_text(encoding="utf-8"))
    return text.removeprefix("from __future__ import annotations\n")


def way_of(url: str, options: Mapping[str, Any]) -> str:
    """Return by which of its modules an agent gets at a mailbox; see `start_script`."""
    if url.startswith("http"):
        return "signed"
    return "roles" if options.get("role") else "libraries"


def _bare(text: str) -> str:
    """Return a module without comments and docstrings: a first script may have 16 KiB."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree) + "\n"


def variables(
    url: str, options: Mapping[str, Any] | None = None, *, home: str = "", first_script: str = ""
) -> dict[str, str]:
    """Return the environment that an agent is started with; nothing in it is secret.

    Args:
        url: of its mailbox.
        options: further settings of its store, such as an endpoint.
        home: the home folder of what it runs. Empty: its user's own.
        first_script: path of a script that it starts in its first second.
    """
    given = {
        "TRAINING_ORCHESTRATOR_MAILBOX": url,
        "TRAINING_ORCHESTRATOR_MAILBOX_OPTIONS": json.dumps(options) if options else "",
        "TRAINING_ORCHESTRATOR_MACHINE_HOME": home,
        "TRAINING_ORCHESTRATOR_FIRST_SCRIPT": first_script,
    }
    return {name: value for name, value in given.items() if value}


def start_script(url: str, options: Mapping[str, Any] | None = None) -> str:
    """Return sh by which a virtual machine runs the agent, as part of its first script, as root.

    It goes on for as long as the agent does, and starts it again should it die.

    Args:
        url: of the mailbox, to which the machine's identity, such as a role, must be allowed to read
            and write; or what `Grants.begin` returned: then the machine needs no identity.
        options: further settings of its store, such as an endpoint; `role`: the machine's own
            opens it, by HTTP alone.
    """
    exports = " ".join(
        f"{name}={shlex.quote(text)}" for name, text in variables(url, options).items()
    )
    text = base64.b64encode(packed(way_of(url, options or {}))).decode()
    return (
        'export HOME="${HOME:-/root}"; '
        f"mkdir -p -m 700 {HOME} && cd {HOME} && echo {text} | base64 -d >agent.pyz && "
        f"until {exports} python3 agent.pyz >>agent.log 2>&1 </dev/null; do sleep 5; done"
    )
