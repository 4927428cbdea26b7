"""Supervisor, workers, the archive job and the correct job."""
