"""How often slots come to those who wait in a lane, and so when one that is refused should come again. Pure."""

from random import Random

from gateway.lanes.standing import Lane

RETRY_US_MIN = {Lane.FAST: 2_000_000, Lane.SLOW: 10_000_000}
RETRY_US_MAX = 300_000_000
SMOOTH = 16  # slots that the pace is an average over


class Pace:
    """The pace of one lane at one gate."""

    __slots__ = ("_every_us", "_granted_us")

    def __init__(self) -> None:
        self._granted_us = 0
        self._every_us = 0

    def note(self, now_us: int) -> None:
        """Note that a waiter got a slot."""
        every_us = now_us - self._granted_us
        if self._granted_us and every_us < RETRY_US_MAX:
            self._every_us += (every_us - self._every_us) // SMOOTH
        self._granted_us = now_us

    def retry_us(self, lane: Lane, waiting: int, jitter: Random) -> int:
        """Return after how long (microseconds) to come again where so many wait: the time that they take at the pace of late, at least a lane's least,
        and up to as much again by chance, so that those who are told together do not come together.
        """
        return round(min(RETRY_US_MAX, max(RETRY_US_MIN[lane], waiting * self._every_us)) * (1 + jitter.random()))
