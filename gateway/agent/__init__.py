"""`trainctl agent`: the HTTP interface and a worker on one GPU machine, reporting to a backend."""
