"""Whole movies on the device."""

from tests import test_pipeline_device as PLAYED  # noqa: N812 - what tests/gpu/conftest.py looks for
from tests.gpu.shared import taken_from

globals().update(taken_from(PLAYED))
