"""The way out of a sandbox that has no network: one listener in it, behind which a process of the provider's dials."""
