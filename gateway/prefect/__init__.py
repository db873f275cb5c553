"""The Prefect server: which one is used, how ours is started and looked after, how it is asked."""
