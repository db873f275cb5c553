"""A job's `setup`: one bash script that ends at the first failure and notes what failed."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.contract.errors import DependencyError

_MARK = "\x1e"  # ASCII's record separator: comes before each command that failed


def setup_script(lines: Sequence[str], *, output: str, failed: str) -> list[str]:
    """Return the lines of the script.

    Args:
        lines: what the job asks for.
        output: where all that is printed goes, as a redirection of standard output.
        failed: where the command that failed is noted, as a redirection without single quotes.
    """
    return [
        # Without input: a command that asks a question ends at once instead of waiting for an
        # answer that nobody can give.
        f"exec </dev/null {output} 2>&1",
        f'trap \'printf "\\036%s" "$BASH_COMMAND" {failed}\' ERR',
        # E hands the trap on to functions and subshells, so the command named is the one that
        # failed (https://www.gnu.org/software/bash/manual/html_node/The-Set-Builtin.html).
        "set -eE",
        *lines,
    ]


def setup_failed(noted: str, exit_code: int, last: str) -> DependencyError:
    """Return the error of a script that failed.

    Args:
        noted: what the script noted as failed.
        exit_code: the script's own.
        last: the last line that it printed.
    """
    # The last one noted ended the script; one in a `$(…)` may have failed before without ending it.
    # A plain `exit 3` trips no ERR trap and notes nothing.
    command = noted.rpartition(_MARK)[2] if _MARK in noted else "exit"
    return DependencyError(
        f"The setup command {command!r} failed with exit code {exit_code}"
        f"{f': {last}' if last else ''}.",
        "Correct setup in the job file.",
    )
