"""What becomes of jobs as events of Prefect, for automations: each once, and none lost on the way."""
