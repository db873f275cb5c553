"""What became of the rows of a dataset on their way to tokens or examples."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """What became of the rows of one source; kept beside its Arrow file."""

    rows: int = 0
    tokens: int = 0
    """Tokens of the rows that were kept."""
    dropped: int = 0
    """Rows with nothing to learn within max_length."""
    truncated: int = 0
    longest: int = 0
    """Tokens of the longest row that was kept; of a pair, of the longer answer with its prompt."""
    format: str = ""
    sha256: str = ""
    file_bytes: int = field(default=0, repr=False)
