"""What becomes of jobs, told to people: noted in an outbox, grouped, and sent however often it takes."""
