"""What the tests of faulty data share besides fixtures."""

from __future__ import annotations

MB = 1 << 20
