"""Who may do what: keys, job tokens, users and their sessions, limits, and the audit log.

Nothing here knows HTTP; `gateway/rest/` lets callers in by it.
"""
