"""What the books thread does first, and what shares a transaction."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import Session

from billing.errors import BooksUnavailable
from billing.work import TOGETHER_MAX, Piece, Urgency, WorkQueue, perform


def piece(name: str, log: list[str], key: str | None = None, error: Exception | None = None) -> Piece[str]:
    def work(_session: Session) -> str:
        log.append(name)
        if error is not None:
            raise error
        return name

    return Piece(work, lambda result: log.append(f"told {result}"), lambda failure: log.append(f"failed {failure}"), key)


def put(queue: WorkQueue, urgency: Urgency, *names: str, keys: bool = False) -> None:
    for name in names:
        queue.put(piece(name, [], name if keys else None), urgency)


def names(rounds: list[list[Piece[Any]]]) -> list[list[str]]:
    return [[one.work(None) for one in together] for together in rounds]  # type: ignore[arg-type]


def test_the_beat_goes_before_everything_and_the_rest_is_not_starved() -> None:
    queue = WorkQueue()
    put(queue, Urgency.LATER, "later 1", "later 2")
    put(queue, Urgency.WAITED, *(f"draw {number:03}" for number in range(100)), keys=True)
    put(queue, Urgency.BEAT, "beat")
    first = names(queue.take_round())
    assert first[0] == ["beat"]
    assert len(first[1]) == TOGETHER_MAX
    assert first[2] == ["later 1"]
    put(queue, Urgency.BEAT, "beat again")
    assert names(queue.take_round())[0] == ["beat again"]


def test_what_shares_a_transaction_is_in_the_order_of_its_keys() -> None:
    queue = WorkQueue()
    put(queue, Urgency.WAITED, "t3", "t1", "t2", keys=True)
    put(queue, Urgency.WAITED, "alone")
    assert names(queue.take_round()) == [["alone"], ["t1", "t2", "t3"]]
    assert len(queue) == 0


def once(work: Callable[[Session], Any]) -> Any:
    return work(None)  # type: ignore[arg-type]


def test_one_that_fails_spoils_none_of_those_it_shared_with() -> None:
    log: list[str] = []
    pieces = [piece("a", log, "a"), piece("b", log, "b", ValueError("no")), piece("c", log, "c")]
    perform(pieces, once, lambda callback: callback())
    assert log == ["a", "b", "a", "told a", "b", "failed no", "c", "told c"]
    assert [one.future.exception() is None for one in pieces] == [True, False, True]


def test_work_that_was_taken_back_is_not_done() -> None:
    log: list[str] = []
    one = piece("a", log)
    assert one.future.cancel()
    perform([one], once, lambda callback: callback())
    assert log == []


def test_what_everybody_shared_is_told_to_each() -> None:
    log: list[str] = []
    transactions: list[int] = []

    def counted(work: Callable[[Session], Any]) -> Any:
        transactions.append(1)
        return once(work)

    perform([piece("a", log, "a"), piece("b", log, "b")], counted, lambda callback: callback())
    assert (log, len(transactions)) == (["a", "b", "told a", "told b"], 1)


def test_a_failure_is_raised_where_it_is_waited_for() -> None:
    one = piece("a", [], None, ValueError("no"))
    perform([one], once, lambda callback: callback())
    with pytest.raises(ValueError, match="no"):
        one.future.result()


def test_a_database_that_is_away_is_asked_once_for_all_of_them() -> None:
    log: list[str] = []
    tries: list[int] = []

    def away(_work: Callable[[Session], Any]) -> Any:
        tries.append(1)
        raise BooksUnavailable("away")

    perform([piece("a", log, "a"), piece("b", log, "b")], away, lambda callback: callback())
    assert (log, len(tries)) == (["failed away", "failed away"], 1)
