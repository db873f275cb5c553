"""Carries files between a machine and an object store: by addresses that permit just that, or by role."""
