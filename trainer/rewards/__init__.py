"""Who says how good an answer is: functions of ours by name, the user's own, and models.

A reward function has TRL's signature: it is called with `prompts`, `completions` and every other
column of the dataset, lists of the same length, and returns one number for each completion.
"""
