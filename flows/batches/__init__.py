"""Jobs that belong together: read from a file, checked as a whole, submitted, and shown on a page."""
