"""Where secrets come from: a variable, a file, Prefect, or a cloud's vault, by its address."""
