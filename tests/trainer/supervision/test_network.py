"""How machines of one job find each other, on this one."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from trainer.supervision.network import free_port, interface_of, listen, reach


def test_who_listens_is_reached_by_all_and_can_use_the_port_again_at_once():
    port = free_port()
    host = threading.Thread(target=listen, args=(port, 2, 10.0))
    host.start()

    found = [reach("127.0.0.1", port, 10.0) for _ in range(2)]

    host.join(timeout=10)
    assert found == ["lo", "lo"]
    listen_again = threading.Thread(target=listen, args=(port, 1, 10.0))
    listen_again.start()
    assert reach("127.0.0.1", port, 10.0) == "lo"
    listen_again.join(timeout=10)


def test_nobody_listens_is_said_after_the_time_given():
    with pytest.raises(ConnectionRefusedError):
        reach("127.0.0.1", free_port(), 0.3)
    with pytest.raises(TimeoutError):
        listen(free_port(), 1, 0.1)


def test_an_address_of_no_interface_has_none():
    assert interface_of("192.0.2.1") is None
    assert interface_of("::1") is None


def test_the_command_line_says_why_nobody_was_reached():
    words = ["reach", "127.0.0.1", str(free_port()), "0.1"]

    result = subprocess.run(
        [sys.executable, "-m", "trainer.supervision.network", *words],
        capture_output=True,
        text=True,
    )

    assert (result.returncode, result.stdout) == (1, "")
    assert "refused" in result.stderr
