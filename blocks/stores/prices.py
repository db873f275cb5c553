"""What stores bill, at the first tier of their list prices of 2026; what an account pays may differ."""

from __future__ import annotations

EGRESS = {"s3": 0.09, "gs": 0.12, "az": 0.087}
"""USD per GB that leaves the store's cloud."""
STORAGE = {"s3": 0.023, "gs": 0.020, "az": 0.018}
"""USD per GB and month."""
