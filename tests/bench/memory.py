"""Show that memory does not grow with requests: a million of them, and the resident memory after every twentieth of them.

The first half warms caches and the allocator up; the slope is the second half's, by least squares.
"""

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # started as a script

from tests.bench import rig  # noqa: E402
from tests.bench.targets import Weir  # noqa: E402

SLICES = 20


def main() -> None:
    """Send them, print a line a slice, and the slope."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        mock = stack.enter_context(rig.upstream())
        weir = Weir(mock, rig.FOLDER / "weir-memory")
        stack.callback(weir.stop)
        assert weir.process is not None
        points: list[tuple[float, float]] = []
        for _ in range(SLICES):
            before = mock.served()
            row = rig.load(weir, "plain", ("-c", "32", "-n", str(options.requests // SLICES)))
            assert row["failed"] + row["refused"] + row["short"] == 0, row
            weir.requests += mock.served() - before
            points.append((weir.requests / 1e6, weir.process.rss_kb() / 1024))
            print(f"{weir.requests:9,} requests: {points[-1][1]:.1f} MB", flush=True)
        late = points[SLICES // 2 :]
        slope = statistics.linear_regression([x for x, _ in late], [y for _, y in late]).slope
        weir.stop()
        print(f"{slope:+.1f} MB a million requests over the second half\n{weir.check()}")


if __name__ == "__main__":
    main()
