"""The same training job done by other systems: each is a process per worker that prints one JSON line a round."""
