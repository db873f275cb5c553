"""The steps of the flows, one file each. Tasks take and return plain data."""
