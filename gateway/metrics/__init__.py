"""What trainings measured: stored in chunks, followed from their files, streamed, exported."""
