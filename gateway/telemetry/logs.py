"""The log: one line an event on standard error, as JSON for machines or as text for people.

A line break or control character in a message is escaped, so that what a client sent can never forge a line. What is passed as
`extra=` becomes members of the JSON line, or `key=value` behind the text. Prompts and secrets are never logged. Of lines that say the same of
something else, so many a second are written: what clients do in a loop must not fill a disk.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

Format = Literal["text", "json"]

LINES_A_SECOND = 20
KINDS_MAX = 1000

_OWN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName", "color_message"}
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))} | {10: "\\n", 13: "\\r", 9: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def configure_logging(level: str = "INFO", form: Format = "text", stream: TextIO | None = None) -> None:
    """Send every logger of the process to one stream (standard error unless told). Replaces what was configured before."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    for noisy in ("httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Sparing(logging.Filter):
    """Lets at most `LINES_A_SECOND` lines of one kind (logger, level, text before its values are filled in) through in each second.

    The next one that is written says how many were not, as `not_shown`. What was refused is counted in full by the metrics.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int, str], list[int]] = {}  # the second, lines in it, and those not shown yet

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is written."""
        second, kind = int(record.created), (record.name, record.levelno, str(record.msg))
        seen = self._seen.get(kind)
        if seen is None:
            if len(self._seen) >= KINDS_MAX:
                self._seen.clear()
            seen = self._seen[kind] = [second, 0, 0]
        if seen[0] != second:
            seen[:2] = [second, 0]
        seen[1] += 1
        if seen[1] > LINES_A_SECOND:
            seen[2] += 1
            return False
        if seen[2]:
            record.not_shown, seen[2] = seen[2], 0
        return True


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, without its break."""
        line: dict[str, Any] = {"at": _instant(record), "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


class TextFormatter(logging.Formatter):
    """Writes a record as a line of text; a traceback follows on lines of its own, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, without its last break."""
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        line = f"{_instant(record)} {record.levelname:<7} {record.name}: {record.getMessage()}{extra}".translate(_ESCAPES)
        if record.exc_info:
            line += "".join(f"\n    {part.translate(_ESCAPES)}" for part in self.formatException(record.exc_info).splitlines())
        return line


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _OWN}
