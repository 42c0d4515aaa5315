"""What `books.durability: disk` costs: CPU a request, waits, and how many requests share a push. The journal alone, on the disk of a folder.

.venv/bin/python -m tests.bench.durability [FOLDER]
"""

import asyncio
import resource
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from billing.usage.journal import Durability, Journal
from tests.books import dispatched, event
from tests.clock import ManualClock

REQUESTS = 20_000
ANSWERS = (1, 32, 256)  # under way at once
THINK_S = 0.002  # of the upstream, so that the loop has waits of its own as in life


async def measure(folder: Path, durability: Durability, answers: int) -> str:
    """Pass requests through a journal, `answers` at a time; return a line of figures."""
    journal = Journal(folder, ManualClock().now_us, durability=durability)
    loop = asyncio.get_running_loop()
    journal.start(lambda callback: loop.call_soon_threadsafe(callback))
    begun, ended = dispatched(0), event(0)
    waits: list[float] = []
    numbers = iter(range(max(400, REQUESTS * answers // ANSWERS[-1])))
    count = 0

    async def client() -> None:
        nonlocal count
        for number in numbers:
            count += 1
            journal.dispatched(msgspec.structs.replace(begun, id=str(number)))
            await asyncio.sleep(THINK_S)
            segment = journal.settled(msgspec.structs.replace(ended, id=str(number)))
            since_s = time.perf_counter()
            if (waiting := journal.durable()) is not None:
                await waiting
            waits.append(time.perf_counter() - since_s)
            if segment is not None:
                journal.release(segment)

    before, since_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(answers)))
    took_s, after = time.perf_counter() - since_s, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    shared = count / journal.pushes if journal.pushes else 0
    journal.close()
    wait_ms = statistics.median(waits) * 1e3
    figures = f"{cpu_s / count * 1e6:10.1f} us CPU {count / took_s:10,.0f} requests/s {wait_ms:8.2f} ms wait (p50) {shared:6.1f} requests a push"
    return f"{durability:8} {answers:5} at once {figures}"


def main() -> None:
    """Measure both settings, interleaved, at each number of answers under way."""
    with TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for answers in ANSWERS:
            for _ in range(2):
                for durability in ("process", "disk"):
                    print(asyncio.run(measure(Path(folder) / "journal", durability, answers)), flush=True)


if __name__ == "__main__":
    main()
