"""Make a machine ready: the trainer's environment, and what the job names on this computer."""
