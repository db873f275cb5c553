"""What orchestrator and trainer share: the job directory, its files, errors. Standard library only."""
