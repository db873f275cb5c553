"""What a place to train needs from here: the trainer, what the job names, and tokens."""
