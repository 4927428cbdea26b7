"""All of the database behind one door."""

from datetime import UTC, datetime

from komad.store.cleanup import Cleanups
from komad.store.devices import Devices
from komad.store.finished import Finished
from komad.store.folders import Folders
from komad.store.growth import Growth, growth
from komad.store.jobs import Jobs
from komad.store.koma import KomaWindows
from komad.store.movies import Movies
from komad.store.overview import open_read_only
from komad.store.stack_sums import StackSums
from komad.store.workers import Workers


class Store(Movies, Jobs, Workers, Devices, StackSums, KomaWindows, Folders, Cleanups, Finished):
    """Everything that is done with the database: `with Store(state_directory).open() as store`."""

    def growth(self) -> Growth:
        """What movies took of the disks lately."""
        with open_read_only(self.state_directory) as connection:
            return growth(connection, datetime.now(UTC))
