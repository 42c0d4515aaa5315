"""An answer that a pool opened: its replica is given back, and judged, when it ends."""

from collections.abc import Callable

import msgspec

from backends import health
from backends.errors import BackendError
from backends.replica import Replica
from backends.transport.seam import Answer, Exchange, Take


class Opened(msgspec.Struct, eq=False):
    """An answer whose replica is given back at its end: by reading b"", by an error, or by `abort`. An `Answer` itself.

    `tried`: how many replicas were asked, this one included.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    exchange: Exchange
    replica: Replica
    tried: int
    _answer: Answer
    _failed: Callable[[Replica, str], object]  # hears that the replica failed, and why
    _open: bool = True

    async def read(self) -> bytes:
        """Return what has arrived; b"" at the end. Raises as `Answer.read` does."""
        try:
            data = await self._answer.read()
        except BackendError as error:
            self._lost(error)
            raise
        if not data:
            self._ended()
        return data

    async def whole(self, bytes_max: int) -> bytes | None:
        """Return the body to its end (`Answer.whole`). Raises as `Answer.read` does."""
        try:
            data = await self._answer.whole(bytes_max)
        except BackendError as error:
            self._lost(error)
            raise
        if data is None:
            self._close()
        else:
            self._ended()
        return data

    async def pump(self, take: Take) -> bool:
        """Hand over what arrives until nobody wants more (False) or the body has ended (True). Raises as `Answer.pump` does."""
        try:
            ended = await self._answer.pump(take)
        except BackendError as error:
            self._lost(error)
            raise
        if ended:
            self._ended()
        return ended

    def abort(self) -> None:
        """Give the exchange up. Harmless after the end, and when called twice; it says nothing about the replica."""
        self._close()
        self._answer.abort()

    def _ended(self) -> None:
        if self._close() and self.status not in health.SICK:
            health.answered(self.replica)

    def _lost(self, error: BackendError) -> None:
        if self._close():
            self._failed(self.replica, str(error))

    def _close(self) -> bool:
        if not self._open:
            return False
        self._open = False
        self.replica.inflight -= 1
        return True
