"""The scripts for a machine's shell: POSIX only, for dash, busybox and bash alike.

A command, its environment and its folder reach the machine on standard input, as one line of
script. So the list of processes shows neither variables nor paths of ours, only `BOOT` and, while
it runs, the command itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from blocks.machines.transfer import PART
from trainer.contract.errors import ConfigError

# Quoted so that every login shell reads it alike. `read` takes one byte at a time, which leaves
# what follows the line for the script, and fails at the end of its input: a script that a cut
# shortened is never run.
BOOT = """exec sh -c 'IFS= read -r __line && eval "$__line"'"""
# `$(…)` strips line breaks from the end, so an underscore protects this one until it is cut off.
_NEW_LINE = r'__n=$(printf "\n_"); __n=${__n%_}; '
_TOOLS = "__setsid=$(command -v setsid); __sh=$(command -v sh); "  # before PATH may change
# What may stand on the left of an assignment in sh; anything else would be code.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# First a watcher that kills the whole group, itself included, as soon as the connection's side of
# descriptor 3 is closed: by us when the command has ended or must end, by sshd when the connection
# drops. It is orphaned on purpose, so that the command has no child that it did not start.
_GUARD = "( { read -r _ <&3; kill -9 -$$; } >/dev/null 2>&1 & ); "
_RUN_GUARDED = "exec 2>&4 4>&-; " + _GUARD + 'exec "$@" 3<&-'

# `tail` alone starts from the beginning when the file comes later or is shorter than the offset.
_FOLLOW = (
    'until [ -f "$1" ] && [ "$(wc -c <"$1")" -ge "$2" ]; do sleep 0.1 || sleep 1; done 2>/dev/null; '
    's=; tail -s 0.1 -c 1 /dev/null >/dev/null 2>&1 && s="-s 0.1"; '
    'exec tail -c +$(($2+1)) $s -f -- "$1"'
)

MISSING, NOT_PLAIN, FULL = 4, 3, 28  # exit codes of the scripts below


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    text: str | None = None,
) -> str:
    """Run a command as the leader of its own session, with `text` or nothing as its input."""
    feed = "" if text is None else f'printf "%s" {quote(text)} | '
    return _script(
        # Descriptor 3 is the connection: the guard reads it, and the command must not.
        f"exec 3<&0 </dev/null; {_TOOLS}{_surroundings(env, cwd)}"
        # Descriptor 4 is the command's standard error. The shell's own is closed off, because a
        # shell that reports how a process ended would be taken for the command.
        f"exec 4>&2 2>/dev/null; {feed}"
        f'"$__setsid" "$__sh" -c {quote(_RUN_GUARDED)} sh {_words(command)}; exit $?'
    )


def start(command: Sequence[str], *, env: Mapping[str, str] | None, cwd: str | None) -> str:
    """Start a command that outlives the connection; exit code 127: it cannot be started.

    `setsid` forks when it is a leader itself, as here, or when asked to where it knows how. A
    background command of the shell would ignore SIGINT for ever.
    """
    program, words = quote(command[0]), _words(command)
    return _script(
        f"exec </dev/null >/dev/null; {_TOOLS}{_surroundings(env, cwd)}"
        f'command -v {program} || {{ echo "no such program" >&2; exit 127; }}; exec 2>/dev/null; '
        f'if "$__setsid" -f true; then exec "$__setsid" -f {words}; fi; exec "$__setsid" {words}'
    )


def follow(path: str, offset: int) -> str:
    """Write what a file holds from `offset` on, and what is appended, for ever."""
    return run(["sh", "-c", _FOLLOW, "sh", path, str(offset)])


def fetch(path: str, offset: int) -> str:
    """Write the size of a plain file, a line break, and its bytes from `offset` on."""
    file = quote(path)
    # `tail -c +N` counts from 1.
    rest = f"cat <{file}" if offset == 0 else f"tail -c +{offset + 1} <{file}"
    return _script(f"{_plain(file)}wc -c <{file} || exit 1; exec {rest}")


def read(path: str, limit: int) -> str:
    """Write at most `limit` bytes of a plain file."""
    file = quote(path)
    return _script(f"{_plain(file)}exec head -c {limit} <{file}")


def receive(path: str, size: int, *, anew: bool) -> str:
    """Append the input to the part of a file; say first what is there, and last its SHA-256.

    Writes two lines at first, the bytes that are there and what `df` says of the disk, and a
    third when the input has ended. Exit code `FULL`: not all of it could be written; then the
    third is what `df` says.
    """
    part, folder = quote(path + PART), quote(str(PurePosixPath(path).parent))
    keep = "false" if anew else f'[ -f {part} ] && [ "$(wc -c <{part})" -le {size} ]'
    return _script(
        # In English, because "No space left" is looked for in what comes back.
        f"LC_ALL=C; export LC_ALL; mkdir -p {folder} && {{ {keep} || : >{part}; }} || exit 1; "
        f"wc -c <{part}; df -Pk {folder} | tail -n 1; "
        f"cat >>{part} || {{ df -Pk {folder} | tail -n 1; exit {FULL}; }}; sha256sum <{part}"
    )


def settle(path: str, size: int) -> str:
    """Put a whole part at its place, synced to disk; fine when it is there already."""
    part, file, folder = quote(path + PART), quote(path), quote(str(PurePosixPath(path).parent))
    return _script(
        f"[ -d {file} ] && {{ echo {file} is a folder >&2; exit 1; }}; "
        # Without a part, an earlier attempt may have renamed it and its answer was lost: then the
        # size of the file decides.
        f'[ -e {part} ] || {{ [ "$(wc -c <{file})" -eq {size} ]; exit $?; }}; '
        # Not every sync takes the names of files; one that does not syncs everything.
        f"{{ sync {part} 2>/dev/null || sync; }}; mv -f {part} {file} || exit 1; "
        f"sync {folder} 2>/dev/null || sync"
    )


def write(path: str, fresh: str, size: int) -> str:
    """Replace a small file by the input, if all of it came."""
    target, new, folder = quote(path), quote(fresh), quote(str(PurePosixPath(path).parent))
    return _script(
        f"mkdir -p {folder}; "
        # A cut connection looks like the end of the input, so only the full size replaces the
        # file.
        f'if cat >{new} && [ "$(wc -c <{new})" -eq {size} ] && [ ! -d {target} ] '
        f"&& mv -f {new} {target}; then exit 0; fi; rm -f {new}; exit 1"
    )


def quote(text: str) -> str:
    """Quote for the shell, without a line break.

    Raises:
        ValueError: it holds a NUL, which no argument and no variable can.
    """
    if "\0" in text:
        raise ValueError("embedded null byte")
    # A line break would end the one line that `BOOT` reads; the variable stands for it.
    return "'" + text.replace("'", "'\\''").replace("\n", "'\"$__n\"'") + "'"


def _script(text: str) -> str:
    return _NEW_LINE + text


def _words(command: Sequence[str]) -> str:
    return " ".join(map(quote, command))


def _plain(file: str) -> str:
    """End with an exit code of its own if it is not a plain file; a device might never end."""
    return f"[ -f {file} ] || {{ [ -e {file} ] && exit {NOT_PLAIN}; exit {MISSING}; }}; "


def _surroundings(env: Mapping[str, str] | None, cwd: str | None) -> str:
    # Values are quoted; a name cannot be.
    for name in env or {}:
        if not _WORD.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be the name of an environment variable.")
    exports = "".join(f"export {name}={quote(value)}; " for name, value in (env or {}).items())
    return exports + (f"cd {quote(cwd)} || exit 127; " if cwd else "")
