"""The one adapter: every import of the host that the core needs is in this package."""
