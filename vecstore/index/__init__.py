"""Indexes: they own the arrays a search walks, and are derived from the storage at any time."""
