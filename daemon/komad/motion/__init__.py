"""Where the specimen went: from small frames to shifts."""

from komad.motion.estimate import estimate_motion

__all__ = ["estimate_motion"]
