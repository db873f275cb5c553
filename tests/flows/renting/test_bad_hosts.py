from __future__ import annotations

import subprocess
import sys

from blocks.models import Offer
from flows.renting.bad_hosts import is_bad

HOSTS = 40
REMEMBER = (
    "import sys; from flows.renting.bad_hosts import remember;"
    f"[remember('vast', f'{{sys.argv[1]}}-{{n}}') for n in range({HOSTS})]"
)


def test_what_several_processes_remember_at_once_is_known_to_all():
    names = "ab"
    processes = [subprocess.Popen([sys.executable, "-c", REMEMBER, name]) for name in names]
    assert [process.wait(60) for process in processes] == [0] * len(names)

    offers = [
        Offer(provider="vast", instance_type="x", region="", price_per_hour=1.0, host=f"{name}-{n}")
        for name in names
        for n in range(HOSTS)
    ]
    assert all(is_bad("vast", offer) for offer in offers)
