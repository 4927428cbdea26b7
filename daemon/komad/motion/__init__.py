"""Where the specimen went: from small frames to shifts."""

from komad.motion.global_shifts import estimate_global_shifts

__all__ = ["estimate_global_shifts"]
