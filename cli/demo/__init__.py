"""`torg demo`: the whole life of a job on this machine, in a home of its own, leaving nothing behind."""
