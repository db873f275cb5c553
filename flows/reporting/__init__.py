"""Metrics and alerts for a platform of the user's own, by HTTP, from what is at home already."""
