"""What goes on while the training runs: logs, metrics and checkpoints come, requests go."""
