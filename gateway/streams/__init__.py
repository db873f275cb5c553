"""What happens to a job, told at once: one reader for each job, however many clients watch it."""
