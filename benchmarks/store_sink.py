"""A store on loopback that is fast and keeps everything in memory, for benchmarks: no S3, but its wire.

It answers the requests of an upload in one piece or in parts, of a head, and of a download whole or by
ranges. Nothing is checked. It prints its port, and runs until it is killed.
"""

from __future__ import annotations

import re
import socket
import threading

DATE = "Wed, 25 Nov 2026 10:00:00 GMT"
STARTED = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
DONE = b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'
objects: dict[str, bytes | bytearray] = {}


def main() -> None:
    """Serve."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def serve(connection: socket.socket) -> None:
    """Answer the requests of one connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rest = b""
    while True:
        while b"\r\n\r\n" not in rest:
            more = connection.recv(1 << 16)
            if not more:
                return
            rest += more
        head, _, rest = rest.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = dict(field.lower().split(": ", 1) for field in fields)
        if "expect" in headers:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(headers.get("content-length", 0))
        body = bytearray(size)
        body[: len(rest)] = rest[:size]
        have, rest = min(size, len(rest)), rest[size:]
        view = memoryview(body)
        while have < size:
            have += connection.recv_into(view[have:], size - have)
        answer(connection, method, target, headers, body)


def answer(
    connection: socket.socket, method: str, target: str, headers: dict[str, str], body: bytearray
) -> None:
    """Answer one request."""
    path = target if "uploadId=" in target else target.partition("?")[0]
    if method == "POST" and target.endswith("uploads"):
        say(connection, 200, STARTED)
    elif method == "POST":
        path = target.partition("?")[0]
        parts = sorted((key for key in objects if key.startswith(f"{path}?")), key=number)
        objects[path] = b"".join(objects.pop(key) for key in parts)
        say(connection, 200, DONE)
    elif method == "PUT":
        objects[path] = body
        say(connection, 200)
    elif path not in objects:
        say(connection, 404)
    elif method == "HEAD":
        say(connection, 200, length=len(objects[path]))
    elif found := re.match(r"bytes=(\d+)-(\d*)", headers.get("range", "")):
        whole = objects[path]
        first, last = int(found[1]), min(int(found[2] or len(whole)), len(whole) - 1)
        which = f"Content-Range: bytes {first}-{last}/{len(whole)}\r\n"
        say(connection, 206, memoryview(whole)[first : last + 1], more=which)
    else:
        say(connection, 200, objects[path])


def number(key: str) -> int:
    """Return the number of a part."""
    found = re.search(r"partNumber=(\d+)", key)
    return int(found[1]) if found else 0


def say(
    connection: socket.socket,
    status: int,
    body: bytes | bytearray | memoryview = b"",
    *,
    length: int | None = None,
    more: str = "",
) -> None:
    """Send an answer."""
    size = len(body) if length is None else length
    head = f'HTTP/1.1 {status} X\r\nContent-Length: {size}\r\nETag: "x"\r\nLast-Modified: {DATE}\r\n{more}\r\n'
    connection.sendall(head.encode())
    if body:
        connection.sendall(body)


if __name__ == "__main__":
    main()
