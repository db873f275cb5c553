"""The process that trains, and what measures and predicts it."""
