"""Whose results are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from komad.config import Output
from komad.errors import ConfigError
from komad.formats.atomic import Sharing
from komad.output.sharing import sharing_of


def test_numbers() -> None:
    """Octal text becomes permissions; what is left out stays open."""
    assert sharing_of(Output()) == Sharing()
    assert sharing_of(Output(file_mode="0640", directory_mode="2770")) == Sharing(
        file_mode=0o640, directory_mode=0o2770
    )


@pytest.mark.parametrize("value", ["0888", "0440", "0755", "rw-r-----", "6400"])
def test_permissions_that_make_no_sense(value: str) -> None:
    """What is not octal, not writable for komad itself, or a program is refused."""
    with pytest.raises(ValidationError, match="file_mode"):
        Output(file_mode=value)


def test_group_that_is_not_there() -> None:
    """A group that nobody made stops the start with its name."""
    with pytest.raises(ConfigError, match="no group 'no-such-group'"):
        sharing_of(Output(group="no-such-group"))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_group_of_others() -> None:
    """Who is not in the group is told how to become a member, before any file is refused."""
    code = (
        "import os\n"
        "from komad.config import Output\n"
        "from komad.output.sharing import sharing_of\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sharing_of(Output(group='root'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "komad's user is not in the group root; add it (usermod -a -G root USER)" in done.stderr
