"""Disks that fail: single calls by a library that is loaded first, whole file systems that are full or read-only."""
