"""When the next call to an account may go out: one pace for all processes of this computer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from blocks.home import home, private_folder
from blocks.uptime import boot_id, uptime

# Of this process, for when the file cannot be written: a full disk must not make us impolite.
_known: dict[str, dict[str, float]] = {}


class Pace:
    """The next free moment of each bucket of an account.

    Nothing is reserved ahead. Who has to wait looks again when the moment has come, and the first
    one takes it: a caller that is cancelled, or whose process dies, leaves nothing behind.
    """

    def __init__(self, account: str, intervals: Mapping[str, float]) -> None:
        """Describe the account.

        Args:
            account: tells it from others.
            intervals: seconds between two calls, by the name of the bucket.
        """
        self._intervals = intervals
        # A digest, so that nothing of an account becomes the name of a file.
        self._name = hashlib.sha256(account.encode()).hexdigest()[:32]

    def take(self, *buckets: str) -> float:
        """Return the seconds until a call may go out; with 0 it may, and none other before its time.

        Args:
            buckets: all that the call takes from; their moments are taken together, so that none
                is used up by a wait for another.
        """
        with self._moments() as moments:
            now = uptime()
            wait = max(moments.get(bucket, 0.0) for bucket in buckets) - now
            if wait > 0:
                return wait
            self._begin(moments, now, buckets)
            return 0.0

    def sent(self, *buckets: str) -> None:
        """Count the intervals from now: what took its moment was on its way only now."""
        with self._moments() as moments:
            self._begin(moments, uptime(), buckets)

    def hold(self, seconds: float, bucket: str = "") -> None:
        """Let no call of a bucket go out until `seconds` have passed."""
        with self._moments() as moments:
            moments[bucket] = max(moments.get(bucket, 0.0), uptime() + seconds)

    def _begin(self, moments: dict[str, float], now: float, buckets: tuple[str, ...]) -> None:
        for bucket in buckets:
            # A pause that was asked for meanwhile may be longer.
            until = now + self._intervals.get(bucket, 0.0)
            moments[bucket] = max(moments.get(bucket, 0.0), until)

    @contextmanager
    def _moments(self) -> Iterator[dict[str, float]]:
        """Yield the moments, as `uptime` has them; what is changed is kept for all processes."""
        moments = _known.setdefault(f"{home()} {self._name}", {})
        try:
            descriptor = os.open(
                private_folder(home() / "pace") / f"{self._name}.json",
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
                0o600,
            )
        except OSError:
            yield moments
            return
        try:
            # Held for microseconds, so that waiting for it needs no event loop.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for bucket, moment in _read(descriptor).items():
                moments[bucket] = max(moments.get(bucket, 0.0), moment)
            before = dict(moments)
            yield moments
            if moments != before:
                _write(descriptor, moments)
        finally:
            os.close(descriptor)


def _read(descriptor: int) -> dict[str, float]:
    """Return what other processes noted since the computer was started."""
    try:
        record = json.loads(os.pread(descriptor, 1 << 16, 0) or b"{}")
        if record.get("boot") != boot_id():  # what is noted of another uptime says nothing
            return {}
        return {str(name): float(moment) for name, moment in record["moments"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        return {}  # torn by a crash: the next call notes it anew


def _write(descriptor: int, moments: Mapping[str, float]) -> None:
    content = json.dumps({"boot": boot_id(), "moments": moments}).encode()
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    except OSError:  # a full disk: this process keeps to it all the same
        pass
