"""All of the database behind one door."""

from komad.store.cleanup import Cleanups
from komad.store.devices import Devices
from komad.store.finished import Finished
from komad.store.folders import Folders
from komad.store.jobs import Jobs
from komad.store.koma import KomaWindows
from komad.store.movies import Movies
from komad.store.stack_sums import StackSums
from komad.store.workers import Workers


class Store(Movies, Jobs, Workers, Devices, StackSums, KomaWindows, Folders, Cleanups, Finished):
    """Everything that is done with the database: `with Store(state_directory).open() as store`."""
