"""How flows are hosted: work pools, queues, deployments, schedules."""
