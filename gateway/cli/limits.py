"""Limits as flags: a number, or `none` to lift one."""

from billing.errors import Invalid
from billing.money import parse_credits

NONE = "none"


def parse_ceiling(text: str, flag: str = "--ceiling") -> int | None:
    """Read credits a period as ncr, or `none` as None. Raises `Invalid` naming the flag."""
    if text == NONE:
        return None
    ncr = parse_credits(text, flag)
    if ncr < 0:
        raise Invalid("ceiling", f"{flag}: {text} must be 0 or more, or {NONE}")
    return ncr


def parse_limit(text: str, flag: str) -> int | None:
    """Read a whole number of at least 1, or `none` as None. Raises `Invalid` naming the flag."""
    if text == NONE:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) >= 1):
        raise Invalid(flag, f"{flag}: `{text}` is not a limit; a whole number of at least 1, or {NONE}")
    return int(text)
