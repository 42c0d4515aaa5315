"""The group commit's thread and a stop that comes from another one."""

import threading

import pytest

from billing.usage.group import GroupCommit


def test_a_stop_that_comes_while_the_thread_is_being_started_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop starts the thread at its first push, which may be the last second of the process: whoever closes the journal must not fail for it."""
    starting, go = threading.Event(), threading.Event()

    class SlowStart(threading.Thread):
        def start(self) -> None:
            starting.set()
            assert go.wait(10)
            super().start()

    commit, posted = GroupCommit(lambda _segment: None, lambda: None), threading.Event()

    def post(_callback: object) -> None:
        posted.set()

    commit.start(post)
    failed: list[BaseException] = []

    def stop() -> None:
        try:
            commit.stop(10)
        except BaseException as error:  # noqa: BLE001 - the test says what it was
            failed.append(error)

    loop, stopper = threading.Thread(target=lambda: commit.add(object())), threading.Thread(target=stop)  # type: ignore[arg-type]
    monkeypatch.setattr("billing.usage.group.threading.Thread", SlowStart)
    loop.start()
    assert starting.wait(10)
    monkeypatch.undo()
    stopper.start()
    stopper.join(0.2)  # where it does not wait, it has failed by now
    go.set()
    loop.join(10)
    stopper.join(10)
    assert not failed
    assert posted.wait(10), "what was asked for before the stop was pushed"
    assert not [thread for thread in threading.enumerate() if thread.name == "weir-journal-sync"]
