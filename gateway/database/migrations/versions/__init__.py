"""The revisions, by number; what has been released is never changed."""
