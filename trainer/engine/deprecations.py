"""Names that transformers has given up, and that PEFT 0.21 and TRL 1.16 still read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

DEPRECATED = (
    "`is_gradient_checkpointing",
    "`gradient_checkpointing",
    "`use_liger_kernel=True`",
)


@contextmanager
def deprecations_allowed() -> Iterator[None]:
    """Silence the warnings about names that the user's own code does not contain."""
    with warnings.catch_warnings():
        for name in DEPRECATED:
            # The message is matched from its start, as a regular expression.
            warnings.filterwarnings("ignore", name, FutureWarning)
        yield
