"""What the books thread is asked to do between two batches: in order of how much hangs on it, and draws of many tenants together.

The beat goes first, or a queue of draws longer than a lease's term would end every lease and ask for all of them anew. Then what requests
wait for, several in one transaction, since its commit costs more than they do; then the rest, at least one piece in every round.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import IntEnum
from functools import partial
from typing import Any, Generic, TypeVar

from sqlmodel import Session

from billing.errors import BooksContended, BooksLocked, BooksUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

TOGETHER_MAX = 32  # pieces of work in one transaction


class Urgency(IntEnum):
    """How much hangs on a piece of work."""

    BEAT = 0
    WAITED = 1
    LATER = 2


class Piece(Generic[T]):
    """Some work, who hears of its end, and the key by which pieces that share a transaction are put in order (they lock tenants by it)."""

    __slots__ = ("future", "key", "otherwise", "then", "work")

    def __init__(
        self, work: Callable[[Session], T], then: Callable[[T], None] | None, otherwise: Callable[[BaseException], None] | None, key: str | None
    ) -> None:
        self.work = work
        self.then = then
        self.otherwise = otherwise
        self.key = key
        self.future: Future[T] = Future()


class WorkQueue:
    """Pieces of work by urgency. Any thread puts, the books thread takes."""

    def __init__(self) -> None:
        self._queues: dict[Urgency, deque[Piece[Any]]] = {urgency: deque() for urgency in Urgency}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def put(self, piece: Piece[Any], urgency: Urgency) -> None:
        """Add a piece."""
        self._queues[urgency].append(piece)

    def take_round(self) -> list[list[Piece[Any]]]:
        """Take what is done before the next batch, as lists of pieces that share a transaction: every beat, some that are waited for, one of the rest."""
        beats, waited, later = (self._queues[urgency] for urgency in Urgency)
        found = [[beats.popleft()] for _ in range(len(beats))]
        together: list[Piece[Any]] = []
        for _ in range(min(TOGETHER_MAX, len(waited))):
            piece = waited.popleft()
            if piece.key is None:
                found.append([piece])
            else:
                together.append(piece)
        if together:
            found.append(sorted(together, key=lambda piece: piece.key or ""))
        if later:
            found.append([later.popleft()])
        return found


def perform(pieces: Sequence[Piece[Any]], retrying: Callable[[Callable[[Session], Any]], Any], tell: Callable[[Callable[[], Any]], None]) -> None:
    """Do pieces of work in one transaction (`retrying` makes it), and tell how they ended; where one of them fails, each in one of its own."""
    live = [piece for piece in pieces if piece.future.set_running_or_notify_cancel()]
    if len(live) > 1:
        try:
            results = retrying(lambda session: [piece.work(session) for piece in live])
        except BooksUnavailable as error:
            if not isinstance(error, BooksContended | BooksLocked):  # the database is away, for each of them: it is not asked again so many times
                for piece in live:
                    failed(piece, error, tell)
                return
        except Exception:  # whichever of them it is: each is tried by itself, and its asker hears
            log.info("books: %d pieces of work that shared a transaction are done one by one", len(live), exc_info=True)
        else:
            for piece, result in zip(live, results, strict=True):
                _succeeded(piece, result, tell)
            return
    for piece in live:
        try:
            result = retrying(piece.work)
        except BaseException as error:  # noqa: BLE001 - it is the asker's: the future raises it there
            failed(piece, error, tell)
        else:
            _succeeded(piece, result, tell)


def failed(piece: Piece[Any], error: BaseException, tell: Callable[[Callable[[], Any]], None]) -> None:
    """Tell whoever asked for a piece that it could not be done."""
    if piece.otherwise is not None:
        tell(partial(piece.otherwise, error))
    piece.future.set_exception(error)


def _succeeded(piece: Piece[Any], result: Any, tell: Callable[[Callable[[], Any]], None]) -> None:
    if piece.then is not None:
        tell(partial(piece.then, result))
    piece.future.set_result(result)
