"""Rotation and quantizers: fit, encode, encode a query; they own no storage."""
