"""Logging, set up once per process: readable on a terminal, one JSON object per line otherwise (systemd's journal)."""

from __future__ import annotations

import logging
import sys

import structlog

from komad.config import Log


def configure(settings: Log) -> None:
    """Send everything to stderr, from this level on; libraries that use `logging` are shown from WARNING on."""
    as_text = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not as_text),
        structlog.processors.UnicodeDecoder(),
    ]
    if as_text:
        shown: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    else:
        shown = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=[*shared, *shown],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s", force=True)
