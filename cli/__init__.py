"""The `torg` command line: typer verbs that stand on the Python SDK (`market.client`)."""
