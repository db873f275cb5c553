"""Places to train, as the flow sees them: a job directory, and a few verbs about it."""
