"""The kernels on the device."""

from tests.gpu.shared import taken_from
from tests.kernels import test_cuda as PLAYED  # noqa: N812 - what tests/gpu/conftest.py looks for

globals().update(taken_from(PLAYED))
