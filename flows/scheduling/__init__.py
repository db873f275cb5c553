"""Which waiting job starts next, and on which GPUs: a pure function of what there is and what waits."""
