"""Names that transformers has given up, and that PEFT 0.21 and TRL 1.16 still read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

OLD_NAMES = (
    "`is_gradient_checkpointing",
    "`gradient_checkpointing",
    "`use_liger_kernel=True`",
)


@contextmanager
def old_names_allowed() -> Iterator[None]:
    """Let nobody be warned of what is not in his code."""
    with warnings.catch_warnings():
        for name in OLD_NAMES:
            warnings.filterwarnings("ignore", name, FutureWarning)
        yield
