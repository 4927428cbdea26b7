"""Motion on the device."""

from tests.gpu.shared import taken_from
from tests.motion import test_on_device as PLAYED  # noqa: N812 - what tests/gpu/conftest.py looks for

globals().update(taken_from(PLAYED))
