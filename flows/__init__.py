"""What happens, in order: the flows and their tasks. Nothing here imports torch."""
