"""A worker that is killed or stopped at one of its points; started by the supervisor in place of the real one."""

import os
import sys

from komad.work import worker
from tests.crash import haste, points

if "CRASH_HASTE" in os.environ:
    haste.install()
points.install()
os._exit(worker.main(sys.argv[1:]))
