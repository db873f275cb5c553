"""Programs that shut a machine down: on a machine of the tests they must not reach this computer."""

from __future__ import annotations

from pathlib import Path

PROGRAMS = ("halt", "poweroff", "reboot", "shutdown")


def install_shutdown(folder: Path) -> Path:
    """Put harmless ones first on the PATH of a machine; return the file in which they note their use.

    Args:
        folder: of the machine, as `SshdMachine` has it.
    """
    off = folder / "off"
    programs = folder / "bin"
    for name in PROGRAMS:
        _write(programs / name, f"echo {name} \"$@\" > '{off}'")
    _write(programs / "sudo", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
    return off


def _write(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
