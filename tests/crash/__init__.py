"""Processes that are killed on purpose: where, by whom, and what is left."""
