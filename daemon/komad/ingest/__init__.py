"""`Candidate` -> `Movie`: header, sidecars, references bound by content."""

from komad.ingest.acquisition import missing_parameters, why_unknown, with_supplied
from komad.ingest.describe import describe, reconsider

__all__ = ["describe", "missing_parameters", "reconsider", "why_unknown", "with_supplied"]
