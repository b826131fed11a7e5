"""One module for each group of verbs; `cli.main` imports the one it needs and calls its `register(app)`."""
