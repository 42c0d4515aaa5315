"""The board of slow tenants: who is on it and for how long; and what the processes say of themselves, put together."""

from collections.abc import Sequence

import msgspec
import pytest

from gateway.lanes import notes
from gateway.lanes.board import SILENT_US, TENANTS_MAX, WORDS, Board, Voice, Whole, merge
from gateway.lanes.notes import Load, Note, SlowTenant
from gateway.lanes.standing import Lane, Standing
from tests.clock import START_US

S = 1_000_000


def slow(board: Board, tenant: str, at_us: int = START_US, reason: str = "credits_exhausted", standing: Standing = Standing.SLOW) -> None:
    board.noted(tenant, None if standing is Standing.CAPPED else Lane.SLOW, reason, standing, at_us)


def fast(board: Board, tenant: str, at_us: int = START_US) -> None:
    board.noted(tenant, Lane.FAST, "credits", Standing.FAST, at_us)


def named(board: Board, at_us: int = START_US) -> list[str]:
    return [one.tenant for one in board.slow(at_us)]


def test_a_tenant_is_on_it_from_its_first_slow_request_to_its_next_fast_one() -> None:
    board = Board()
    fast(board, "rich")
    slow(board, "acme")
    slow(board, "acme", START_US + 5 * S)
    assert list(board.slow(START_US + 6 * S)) == [SlowTenant("acme", "slow", "credits_exhausted", START_US, START_US + 5 * S)]
    fast(board, "acme", START_US + 7 * S)
    assert named(board) == []
    slow(board, "acme", START_US + 9 * S)
    assert next(board.slow(START_US + 9 * S)).since_us == START_US + 9 * S


def test_one_that_is_refused_past_its_credits_is_on_it_too_and_the_reason_is_the_last_one() -> None:
    board = Board()
    slow(board, "acme")
    slow(board, "acme", START_US + S, "slow_daily_cap", Standing.CAPPED)
    assert list(board.slow(START_US + S)) == [SlowTenant("acme", "capped", "slow_daily_cap", START_US, START_US + S)]


def test_one_with_credits_again_leaves_it_before_it_asks_again() -> None:
    board = Board()
    slow(board, "acme")
    board.back("acme")
    board.back("never-there")
    assert board.count(START_US) == 0


def test_one_that_asks_for_nothing_for_an_hour_leaves_it() -> None:
    board = Board()
    slow(board, "gone")
    slow(board, "stays", START_US + 10 * S)
    assert named(board, START_US + SILENT_US + S) == ["stays"]
    slow(board, "stays", START_US + 2 * SILENT_US)
    assert next(board.slow(START_US + 2 * SILENT_US)).since_us == START_US + 2 * SILENT_US, "it was away for so long that it is new"


def test_the_last_ones_come_first_and_one_alone_can_be_asked_for() -> None:
    board = Board()
    for index, tenant in enumerate(("a", "b", "c")):
        slow(board, tenant, START_US + index * S)
    slow(board, "a", START_US + 5 * S)
    assert named(board) == ["a", "c", "b"]
    assert [one.tenant for one in board.slow(START_US, "b")] == ["b"]
    assert list(board.slow(START_US, "nobody")) == []


def test_it_is_bounded_and_drops_those_that_were_here_longest_ago() -> None:
    board = Board()
    for index in range(TENANTS_MAX + 5):
        slow(board, f"t{index}", START_US + index)
    assert board.count(START_US + TENANTS_MAX) == TENANTS_MAX
    assert list(board.slow(START_US + TENANTS_MAX, "t4")) == []
    assert len(list(board.slow(START_US + TENANTS_MAX, "t5"))) == 1


def test_waits_are_told_by_lane() -> None:
    board = Board()
    board.waited(Lane.SLOW, 3 * S, START_US)
    written = board.waits(START_US)
    assert written["fast"] == []
    assert len(written["slow"]) == 2


@pytest.mark.parametrize("reason", ["credits_exhausted", "credits_too_few", "books_away", "fallback_model", "slow_daily_cap", "block", "set_aside"])
def test_every_reason_has_words(reason: str) -> None:
    assert len(WORDS[reason].split()) > 2


def crowd(count: int) -> list[SlowTenant]:
    return [SlowTenant(f"{index:03d}-{'x' * 59}", "slow", "credits_exhausted", START_US, START_US + index, 123, 45678) for index in range(count)]


def test_a_note_names_as_many_slow_tenants_as_fit_and_reads_back() -> None:
    note = Note(at_us=START_US, backends={"gpu": Load("p", 8, 4, 3)}, waits={"fast": [0, 5]}, tenants=7, slow_tenants=90)
    text = notes.write(note, crowd(90))
    assert len(text) <= notes.BYTES_MAX
    back = notes.read(text)
    assert back is not None
    assert 40 <= len(back.slow) <= notes.LISTED_MAX
    assert back.slow == crowd(90)[: len(back.slow)]
    assert back.backends == note.backends and back.waits == note.waits and (back.tenants, back.slow_tenants) == (7, 90)


def test_a_note_with_many_backends_names_nobody_rather_than_leaving_a_backend_out() -> None:
    note = Note(at_us=START_US, backends={f"backend-{index}-{'x' * 50}": Load("p" * 12, 64, 8, 7, 4, 9, 9, 9, 9) for index in range(100)})
    back = notes.read(notes.write(note, crowd(10)))
    assert back is not None
    assert (len(back.backends), back.slow) == (100, [])


@pytest.mark.parametrize("text", [None, "", "nonsense", "[]", "{}", '{"at_us": "yesterday"}', '{"at_us": 1, "backends": {"gpu": ["p"]}}'])
def test_a_note_that_cannot_be_understood_is_as_good_as_none(text: str | None) -> None:
    assert notes.read(text) is None


def test_a_note_of_a_newer_version_that_says_more_is_understood() -> None:
    note = notes.read('{"at_us": 1, "weather": "fine", "backends": {"gpu": ["p", 8, 4, 3, 2, 0, 0, 0, 0, "more"]}}')
    assert note is not None
    assert note.backends["gpu"].share == 4


def voice(name: str, here: bool = False, **said: object) -> Voice:
    return Voice(process=name, host="box", pid=1, here=here, note=msgspec.convert({"at_us": START_US, **said}, Note))


def together(*voices: Voice, tenant: str | None = None) -> Whole:
    return merge(voices, tenant)


def lanes(whole: Whole) -> dict[Lane, tuple[int, int, int]]:
    return {lane.lane: (lane.tenants, lane.running, lane.waiting) for lane in whole.lanes}


def waited(*waits_us: int) -> dict[str, Sequence[int]]:
    board = Board()
    for wait_us in waits_us:
        board.waited(Lane.SLOW, wait_us, START_US)
    return dict(board.waits(START_US))


def test_backends_and_lanes_are_summed_over_processes() -> None:
    whole = together(
        voice("a", backends={"gpu": Load("p", 8, 5, 4, 2, fast_running=3, fast_waiting=1, slow_running=1, slow_waiting=7)}, tenants=20, slow_tenants=2),
        voice("b", backends={"gpu": Load("p", 8, 3, 2, 2, fast_running=2, slow_waiting=2), "api": Load("q", 64, 64, 56)}, tenants=30, slow_tenants=4),
    )
    gpu = {backend.name: backend for backend in whole.backends}["gpu"]
    assert (gpu.slots, gpu.slow_slots, gpu.processes) == (8, 6, 2)
    assert (gpu.running, gpu.waiting) == ({Lane.FAST: 5, Lane.SLOW: 1}, {Lane.FAST: 1, Lane.SLOW: 9})
    assert lanes(whole) == {Lane.FAST: (26, 5, 1), Lane.SLOW: (4, 1, 9)}


def test_a_backend_that_each_machine_has_for_itself_has_the_slots_of_all() -> None:
    whole = together(voice("a", backends={"own": Load("here", 4, 4, 3)}), voice("b", backends={"own": Load("there", 4, 4, 3)}))
    assert whole.backends[0].slots == 8


def test_waits_of_all_processes_make_one_quantile() -> None:
    whole = together(voice("a", waits=waited(0, 0, 0)), voice("b", waits=waited(S, S, S, S)))
    slow_lane = whole.lanes[1]
    assert slow_lane.wait_p50_us == pytest.approx(S, rel=0.07) and slow_lane.wait_p99_us == pytest.approx(S, rel=0.07)
    assert whole.lanes[0].wait_p50_us is None


def test_what_several_processes_say_of_a_tenant_becomes_one() -> None:
    early, late = SlowTenant("acme", "slow", "credits_too_few", 10, 50, 1, 2), SlowTenant("acme", "capped", "slow_daily_cap", 30, 90, 0, 4)
    whole = together(voice("a", slow=[early], slow_tenants=1), voice("b", slow=[late], slow_tenants=1))
    assert list(whole.slow) == [SlowTenant("acme", "capped", "slow_daily_cap", 10, 90, 1, 6)]


def test_an_earlier_time_that_ended_before_the_present_one_began_is_not_told() -> None:
    before, now = SlowTenant("acme", "slow", "credits_exhausted", 10, 20), SlowTenant("acme", "slow", "credits_exhausted", 30, 90)
    assert together(voice("a", slow=[before]), voice("b", slow=[now])).slow[0].since_us == 30


def test_who_waits_most_comes_first_and_those_not_named_are_counted() -> None:
    told = [SlowTenant("idle", "slow", "r", 1, 99), SlowTenant("runs", "slow", "r", 1, 2, 3, 0), SlowTenant("waits", "slow", "r", 1, 1, 0, 1)]
    whole = together(voice("a", slow=told, slow_tenants=53), voice("b", slow=told[:1], slow_tenants=11))
    assert [one.tenant for one in whole.slow] == ["waits", "runs", "idle"]
    assert whole.more == 60
    assert [one.tenant for one in together(voice("a", slow=told), tenant="runs").slow] == ["runs"]


def test_this_process_comes_first_and_one_that_says_nothing_is_named_too() -> None:
    mute = Voice(process="old", host="a-box", pid=7, note=None, heard_s=3.5)
    whole = together(mute, voice("me", here=True))
    assert [one.process for one in whole.voices] == ["me", "old"]
    assert whole.voices[1].heard_s == 3.5


def test_where_nobody_says_anything_nothing_is_there() -> None:
    whole = together()
    assert (list(whole.backends), list(whole.slow), whole.more) == ([], [], 0)
    assert lanes(whole) == {Lane.FAST: (0, 0, 0), Lane.SLOW: (0, 0, 0)}
