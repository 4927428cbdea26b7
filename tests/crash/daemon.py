"""`komad run` that is killed at one of its points; with CRASH_HASTE nothing waits before it is tried again."""

import os
import sys
from typing import Any

from komad.cli import main
from komad.work import supervisor
from tests.crash import haste, points

if "CRASH_HASTE" in os.environ:
    haste.install()
    module: Any = supervisor
    module.respawn_delay_s = lambda n_failures: 0.1
    module.Supervisor.__init__.__kwdefaults__["command"] = (sys.executable, "-m", "tests.crash.worker")
points.install()
main()
