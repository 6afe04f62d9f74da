"""Conditions on payloads: the language, and how it is evaluated."""

from vecstore.filters.language import Predicate, compile_filter

__all__ = ["Predicate", "compile_filter"]
