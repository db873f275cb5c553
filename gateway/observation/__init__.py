"""What Prometheus scrapes: jobs, GPUs, money, queues, streams and the metrics store."""
