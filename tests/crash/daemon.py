"""`komad run` that is killed at one of its points."""

from komad.cli import main
from tests.crash import points

points.install()
main()
