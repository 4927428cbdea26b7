"""Bytes to arrays and back: movies, archives, references, tables, atomic files. No science.

`movies` is the door for everything a camera wrote; docs/architecture.md says what the other modules hold.
"""
