"""Everything that can be refused before a training starts: one row a check, the same everywhere."""
