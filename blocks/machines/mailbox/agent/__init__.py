"""Does on a machine what it is asked for through a bucket: the standard library and one SDK.

It is packed as one file, which `python3` runs, and imports nothing but its own modules. The URL of
the bucket is in TRAINING_ORCHESTRATOR_MAILBOX; or, for a machine without a key, the signed address of
the object `grant`. Below it:

    alive            {"next": 7, "beat": 31}: which command comes next, and a number that changes
    in/0000000007    a command: one line of JSON, a line break, and bytes
    out/0000000007   its answer, in the same form
    grant            signed addresses of these objects, for a machine without a key
    over             nobody wants anything more: at SIGTERM end at once

Commands are numbered without a gap: each is created at the first number that is free. The agent alone
replaces one: what must not be done twice, or may hold a secret, is emptied before it is done.

SIGTERM: the machine is being taken back; its supervisors hear of it and save, and commands are obeyed
until no job is at work, or until the machine is gone. SIGUSR1: the lease is over, so end.
"""
