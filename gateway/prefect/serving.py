"""Prefect's server as ours is started: `python -P -m gateway.prefect.serving server start …`.

It is Prefect's own command. But Python looks for garbage among all that a server has imported, again
and again with each request, which is a seventh of all that it does.
"""

from __future__ import annotations

import runpy

from trainer.contract.garbage import search_seldom

if __name__ == "__main__":
    search_seldom()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
