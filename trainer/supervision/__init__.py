"""The process that starts the training, watches it and restarts it. Standard library only."""
