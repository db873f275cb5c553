"""The ways in: the command line. Nothing here imports torch, and little imports Prefect early."""
