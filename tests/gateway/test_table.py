"""Tables fit: columns go before names are cut, and nothing is cut where no terminal is."""

from __future__ import annotations

import pytest

from gateway.cli.renting import _place, _vram
from gateway.cli.table import cells_of, cut, print_table, shortened, without

HEAD = ("ID", "NAME", "STATE", "PROVIDER", "TOOK")
ROWS = [("1a2b3c4d", "a-name-of-thirty-characters-now", "initializing", "local", "3:04:05")]
LEAST = ("PROVIDER", "TOOK")


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (80, ("ID", "NAME", "STATE", "PROVIDER", "TOOK")),
        (62, ("ID", "NAME", "STATE", "TOOK")),
        (45, ("ID", "NAME", "STATE")),
        (20, ("ID", "NAME", "STATE")),
    ],
)
def test_columns_go_before_a_name_is_short(width: int, columns: tuple[str, ...]):
    head, rows = without(HEAD, ROWS, width, named=1, least=LEAST)
    line = shortened(head, rows, width, 1)[0]

    assert tuple(head) == columns
    if width > 20:
        assert sum(map(cells_of, line)) + 2 * (len(line) - 1) <= width
    assert len(line[1]) >= 8


def test_what_is_cut_says_so_and_wide_characters_count_twice():
    assert cut("quickstart", 10) == "quickstart"
    assert cut("quickstart", 9) == "quicksta…"
    assert cut("模型微调任务", 7) == "模型微…"


def test_without_a_terminal_a_name_is_whole(capsys: pytest.CaptureFixture[str]):
    print_table(("ID", "NAME"), [("1", "x" * 200)], named=1, least=())

    assert capsys.readouterr().out == f"ID  NAME\n1   {'x' * 200}\n"


@pytest.mark.parametrize(
    ("region", "zone", "place"),
    [
        ("us-east-1", "us-east-1a", "us-east-1a"),
        ("westeurope", "2", "westeurope 2"),
        ("westeurope", "", "westeurope"),
    ],
)
def test_offers_of_two_zones_are_told_apart(region, zone, place):
    assert _place(region, zone) == place


def test_memory_of_a_gpu_that_its_provider_does_not_tell_is_unknown_and_not_nothing():
    assert [_vram(80.0), _vram(0.0)] == ["80 GiB", "unknown"]
