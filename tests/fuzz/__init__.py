"""Damaged and hostile files, made by the number: a reader and a number are an input, the same one every time."""
