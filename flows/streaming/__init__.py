"""What goes on while the training runs: log, metrics, checkpoints and wishes on their way."""
