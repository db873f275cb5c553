"""Connections to something that runs commands and keeps files."""
