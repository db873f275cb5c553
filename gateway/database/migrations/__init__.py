"""Alembic's folder: one file a revision in `versions/`, each after the one before it."""
