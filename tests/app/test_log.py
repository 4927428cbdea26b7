"""Log lines: JSON for machines, text for people."""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog

from komad import log
from komad.config import Log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_json_when_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal each line is one JSON object, tracebacks included, with UTC times."""
    log.configure(Log())
    logger = structlog.get_logger()
    logger.debug("too small")
    logger.info("found", movie="a", movie_id=3)
    try:
        raise ValueError("a bug")
    except ValueError:
        logger.exception("unexpected error")
    found, failed = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (found["event"], found["level"], found["movie_id"]) == ("found", "info", 3)
    assert found["timestamp"].endswith("Z")
    assert failed["exception"][0]["exc_value"] == "a bug"


def test_nowhere_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log on a full disk, or closed, ends nobody."""
    for place in ("/dev/full", "/dev/null"):
        with open(place, "w", buffering=1, encoding="utf-8") as stream:  # noqa: PTH123 - as stderr is opened
            monkeypatch.setattr("sys.stderr", stream)
            log.configure(Log())
            logger = structlog.get_logger()
            logger.info("found", movie="a")
            if place == "/dev/null":
                stream.close()
            logger.error("trouble")
            with suppress(OSError):
                stream.close()


def test_text_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """The console format is readable without colours where there is no terminal."""
    log.configure(Log(format="console", level="warning"))
    logger = structlog.get_logger()
    logger.info("too small")
    logger.warning("held", movie="a")
    said = capsys.readouterr().err
    assert "held" in said
    assert "movie=a" in said
    assert "too small" not in said
    assert "\x1b" not in said


def test_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    """What libraries warn of through `logging` is shown, their small talk is not."""
    log.configure(Log())
    logging.getLogger("alembic").info("context impl")
    logging.getLogger("tifffile").warning("odd tag")
    assert capsys.readouterr().err == "tifffile: odd tag\n"
