"""Compiled loops: flat arrays and scalars in, caller-owned arrays out; no classes, no I/O."""
