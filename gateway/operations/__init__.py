"""What can be asked for jobs, once for all ways in: the documents' routes and the Python client."""
