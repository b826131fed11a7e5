"""Python environments that batch jobs ask for by requirements: built from wheels alone, once a machine, and kept (ADR 15)."""
