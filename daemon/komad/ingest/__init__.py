"""`Candidate` -> `Movie`: header, sidecars, references bound by content."""

from komad.ingest.acquisition import missing_parameters
from komad.ingest.describe import describe, reconsider

__all__ = ["describe", "missing_parameters", "reconsider"]
