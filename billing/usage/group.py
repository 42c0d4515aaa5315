"""Group commit: one push to the medium for all who ask, on a thread of its own, so that neither the event loop nor the books wait for a disk.

While a push is under way those who come wait together for the next one. Everything but the push itself belongs to the event loop; per
push it is woken once, however many waited. Nobody asking, nothing runs.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable

from billing.usage.segment import Segment

STALL_S = 10.0

log = logging.getLogger(__name__)


class Group:
    """Those who wait for the same push, and the files it is about."""

    __slots__ = ("done", "segments")

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.segments: list[Segment] = []


class GroupCommit:
    """`push` makes one file durable (on the thread; it deals with failures itself), `post` runs a callback on the loop, `pushed` hears there of each end."""

    def __init__(self, push: Callable[[Segment], None], pushed: Callable[[], None]) -> None:
        self._push = push
        self._pushed = pushed
        self._post: Callable[[Callable[[], None]], object] | None = None
        self._next: Group | None = None
        self._jobs: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()  # the loop starts the thread, and a stop comes from another: one that has not begun cannot be waited for
        self._since_s: float | None = None  # when the push under way began
        self._stopped = False
        self.pushes = 0

    def start(self, post: Callable[[Callable[[], None]], object]) -> None:
        """Name the loop on which waiters wait. The thread starts when there is something to do."""
        self._post = post

    @property
    def stalled(self) -> bool:
        """Whether a push takes longer than any disk in health (event loop)."""
        return self._since_s is not None and time.monotonic() - self._since_s > STALL_S

    def add(self, segment: Segment) -> Group:
        """Have a file pushed, soon and once for all who ask; return the group that waits for it (event loop)."""
        group = self._next
        if group is None:
            group = self._next = Group()
        if segment not in group.segments:
            group.segments.append(segment)
        if self._since_s is None:
            self._begin()
        return group

    def wait(self, segment: Segment) -> Awaitable[object]:
        """Return what waits until all that is written to a file by now was pushed, or the push failed (event loop)."""
        return self.add(segment).done.wait()

    def stop(self, wait_s: float) -> None:
        """End the thread, waiting for a push under way, at most so long. Nobody waits for anything after that."""
        with self._starting:
            self._stopped = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join(wait_s)

    def _begin(self) -> None:
        group, self._next = self._next, None
        assert group is not None
        if self._stopped:
            group.done.set()
            return
        if self._post is None:  # nothing runs beside us: in a test, or before the start
            self._work(group)
            group.done.set()
            self._pushed()
            return
        with self._starting:
            if self._stopped:  # meanwhile
                group.done.set()
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="weir-journal-sync", daemon=True)
                self._thread.start()
        self._since_s = time.monotonic()
        self._jobs.put(group)

    def _main(self) -> None:
        while (group := self._jobs.get()) is not None:
            try:
                self._work(group)
            except Exception:  # whoever waits must be woken, and the thread must live for those after them
                log.exception("journal: a push failed in a way it should not")
            self._tell(group)

    def _work(self, group: Group) -> None:
        self.pushes += 1
        for segment in group.segments:
            self._push(segment)

    def _tell(self, group: Group) -> None:
        assert self._post is not None
        try:
            self._post(lambda: self._ended(group))
        except RuntimeError as error:  # the loop is closed: nobody waits any more
            log.warning("journal: the event loop is gone: %s", error)

    def _ended(self, group: Group) -> None:
        self._since_s = None
        group.done.set()
        self._pushed()
        if self._next is not None:
            self._begin()
