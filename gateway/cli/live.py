"""Show a job while it runs: a panel that redraws on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.shown import short_id
from gateway.view import COLOURS, JobView, duration, losses, plain_line, printable, sparkline, speed

PLAIN_SECONDS = 5.0


class Display(ABC):
    """Where views and log lines of one job go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def show(self, view: JobView) -> None:
        """Show the job as it is now."""

    @abstractmethod
    def line(self, text: str) -> None:
        """Print a line that stays."""

    def hide(self) -> None:  # noqa: B027 - plain lines have nothing to hide
        """Take the panel away, for a question; `show` brings it back."""

    def close(self) -> None:  # noqa: B027 - plain lines have nothing to close
        """Leave the last view on the screen."""


def display() -> Display:
    """Return the display that fits standard output."""
    return PanelDisplay() if sys.stdout.isatty() else PlainDisplay()


class PlainDisplay(Display):
    """One line when the state changes, and every five seconds when a number did."""

    def __init__(self) -> None:
        self._said = ""
        self._state = ""
        self._at = float("-inf")

    def show(self, view: JobView) -> None:
        """Print the view when it is time to."""
        text = printable(plain_line(view))
        due = time.monotonic() - self._at >= PLAIN_SECONDS
        # A change of state is printed at once; numbers change every second and may wait.
        if text != self._said and (due or view.state != self._state):
            self._said, self._state, self._at = text, view.state, time.monotonic()
            self.line(text)

    def line(self, text: str) -> None:
        """Print a line at once."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class PanelDisplay(Display):
    """A few lines at the bottom of the terminal that are redrawn in place."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None

    def show(self, view: JobView) -> None:
        """Redraw."""
        if self._live is None:
            # Started with the first view and not before, so that lines printed until then stand
            # above.
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        self._live.update(panel(view))

    def line(self, text: str) -> None:
        """Print a line above the panel."""
        # As Text, because a line of a log may hold what rich takes for markup, such as [/].
        self._console.print(Text(text), soft_wrap=True)

    def hide(self) -> None:
        """Stop redrawing; the next `show` starts below."""
        self.close()

    def close(self) -> None:
        """Stop redrawing."""
        if self._live:
            self._live.stop()
            self._live = None


def panel(view: JobView) -> Group:
    """Return the lines of the panel."""
    title = Text(printable(view.name), style="bold")
    title.append(f"  {view.state}", style=COLOURS.get(view.state, ""))
    title.append(f"  {short_id(view.id)}", style="dim")
    if not view.total_steps:
        return Group(title)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=view.total_steps, completed=view.step, width=40),
        f"{view.step}/{view.total_steps}",
        f"{view.share:.0%}",
        f"ETA {duration(view.eta_seconds)}" if view.step < view.total_steps else "",
    )
    curve = Text(f"{losses(view)}  ")
    curve.append(sparkline(view.losses), style="cyan")
    return Group(title, bar, curve, Text(speed(view), style="dim"))
