"""The gateway's own database: keys, users, sessions, audit log, and what other rooms add to it.

Jobs are not in it: they are Prefect's flow runs. It is a file in the orchestrator's home, or a
PostgreSQL database that several replicas of the service share.

A room that needs a table declares it on `gateway.database.tables.metadata` and adds the next file to
`gateway/database/migrations/versions/`.
"""
