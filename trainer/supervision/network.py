"""python -m trainer.supervision.network: how machines that train one job find each other. Stdlib only.

    port                           prints a free port of this machine
    listen PORT COUNT SECONDS      waits until COUNT others have connected
    reach ADDRESS PORT SECONDS     connects, and prints the network interface that leads there

The last two run before the trainers are started: those would wait for each other for half an hour,
and then say little about the cause.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import sys
import time

AGAIN_SECONDS = 0.2  # between two tries to reach somebody who may not listen yet
SIOCGIFADDR = 0x8915  # Linux's request for the IPv4 address of an interface


def free_port() -> int:
    """Return a port that nobody listens on now."""
    # Port 0: the kernel picks one. It is free again once this closes, so another process may take
    # it before the trainers bind it; they then fail to meet, which is retried with a new port.
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


def listen(port: int, count: int, seconds: float) -> None:
    """Wait until others have come to a port.

    Args:
        port: where.
        count: how many.
        seconds: how long at most.

    Raises:
        TimeoutError: fewer came.
    """
    deadline = time.monotonic() + seconds
    with socket.create_server(("", port), backlog=count) as server:
        for _ in range(count):
            server.settimeout(max(0.01, deadline - time.monotonic()))
            guest, _address = server.accept()
            # TIME_WAIT stays with the side that closes first (RFC 9293, 3.6). recv() returns when
            # the guest has closed, so the port here is free at once for torch's own rendezvous.
            with guest:
                guest.settimeout(max(0.01, deadline - time.monotonic()))
                guest.recv(1)


def reach(address: str, port: int, seconds: float) -> str | None:
    """Connect to a port of another machine, or of this one.

    Returns:
        The name of the interface by which it is reached; None where that is unknown.

    Raises:
        OSError: it cannot be reached; of several tries the last one's.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection((address, port), timeout=max(0.1, left)) as connection:
                return interface_of(connection.getsockname()[0])
        except OSError:
            if time.monotonic() + AGAIN_SECONDS >= deadline:
                raise
            time.sleep(AGAIN_SECONDS)


def interface_of(address: str) -> str | None:
    """Return the network interface that has an IPv4 address; None for any other address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                # struct ifreq of netdevice(7): 16 bytes of name, then a sockaddr_in whose address
                # begins 4 bytes in. So name[:15] leaves room for the NUL, and the address is at
                # [20:24].
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def main(words: list[str]) -> int:
    """Carry out one verb; the exit code is 1 when the others were not met."""
    answer: dict[str, object] = {}
    try:
        match words:
            case ["port"]:
                answer = {"port": free_port()}
            case ["listen", port, count, seconds]:
                listen(int(port), int(count), float(seconds))
            case ["reach", address, port, seconds]:
                answer = {"interface": reach(address, int(port), float(seconds))}
            case _:
                print(__doc__, file=sys.stderr)  # noqa: T201
                return 2
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps(answer))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
