"""A real PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until_now

FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60")


def program(name: str) -> str:
    """Return where a program of PostgreSQL is; Debian keeps the server's off the PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(installed[-1]) if installed else shutil.which(name)
    assert found, f"{name} is missing: apt-get install postgresql"
    return found


@contextmanager
def running_postgres() -> Iterator[str]:
    """Yield the address of an empty database, as SQLAlchemy takes it."""
    # It refuses to run as root, and its user cannot look into pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    data = folder / "data"
    user = {}
    if os.getuid() == 0:
        other = pwd.getpwnam("postgres")
        os.chown(folder, other.pw_uid, other.pw_gid)
        user = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": ()}
    port = free_port()
    try:
        subprocess.run(
            [program("initdb"), "-D", data, "-U", "prefect", "-A", "trust", "--no-sync"],
            **user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *FAST]
        with (folder.parent / f"{folder.name}.log").open("wb") as log:
            server = subprocess.Popen(
                [program("postgres"), "-D", data, "-p", str(port), *(f"-c{o}" for o in options)],
                **user,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        try:
            _await_connections(server, port)
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()  # a smart shutdown waits for clients; the server is gone by then
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / f"{folder.name}.log").unlink(missing_ok=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await_connections(server: subprocess.Popen[bytes], port: int) -> None:
    ready = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect"]
    until_now(lambda: server.poll() is not None or subprocess.run(ready).returncode == 0)
    assert server.poll() is None, "PostgreSQL ended"
