"""The training methods. Adding one is a file in this folder and a line in `METHODS`."""

from __future__ import annotations

METHODS = {
    "cpt": "trainer.methods.cpt",
    "sft": "trainer.methods.sft",
}
"""Each method's name, as TRL has it, and its module; imported only when the method is used."""
