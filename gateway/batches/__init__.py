"""Batches in Prefect: submitted by its bulk calls, found by their tag, and changed as one."""
