"""The page: jobs, their curves side by side, the queue and what it cost, in a browser."""
