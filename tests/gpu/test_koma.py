"""KOMA on the device."""

from tests.detector import test_koma_device as PLAYED  # noqa: N812 - what tests/gpu/conftest.py looks for
from tests.gpu.shared import taken_from

globals().update(taken_from(PLAYED))
