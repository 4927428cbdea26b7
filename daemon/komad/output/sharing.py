"""Whose results are: the group and the permissions of files and folders."""

from __future__ import annotations

import grp
import os

from komad.config import Output, Settings
from komad.errors import ConfigError
from komad.formats.atomic import Sharing, share


def share_results(settings: Settings) -> None:
    """Give what this process writes as results to the group of the settings, with their permissions.

    Raises
    ------
    ConfigError
        There is no such group, or this user is not in it.
    """
    sharing = sharing_of(settings.output)
    for directory in (settings.output.directory, settings.archive_directory):
        share(directory, sharing)


def sharing_of(output: Output) -> Sharing:
    """What the settings say, in numbers. Raises as `share_results`."""
    return Sharing(
        gid=None if output.group is None else _number_of(output.group),
        file_mode=None if output.file_mode is None else int(output.file_mode, 8),
        directory_mode=None if output.directory_mode is None else int(output.directory_mode, 8),
    )


def _number_of(group: str) -> int:
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"output.group: there is no group {group!r} on this computer") from None
    if os.geteuid() != 0 and gid not in {os.getegid(), *os.getgroups()}:
        raise ConfigError(
            f"output.group: komad's user is not in the group {group}; add it (usermod -a -G {group} USER), then start "
            "komad anew"
        )
    return gid
