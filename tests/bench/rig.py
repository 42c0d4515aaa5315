"""Measure Weir beside what it is compared with, against one instant upstream, and print the medians.

Rounds are interleaved (a b c, c b a, ...), so compare within a run: absolute times drift with the machine. The figure to trust is the CPU
time of the target's processes, per request or per streamed chunk; requests per second are the machine's as much as the gateway's.
The target has the last core to itself, the mock and the load share the first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # started as a script

from tests.bench.peers import PEERS, start  # noqa: E402
from tests.bench.processes import LOAD_CORE  # noqa: E402
from tests.bench.targets import MODEL, Mock, Target, Weir, bare, build, direct, nginx, other  # noqa: E402
from tests.real.child import free_port  # noqa: E402
from tests.real.postgres import fresh_database, postgres_server  # noqa: E402

FOLDER = ROOT / ".bench"
Row = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A load. `unit` is what CPU time is divided by: requests (`finished`) or chunks (`events`)."""

    body: str
    warm: tuple[str, ...]
    measured: tuple[str, ...]
    unit: str
    says: str


SCENARIOS = {
    "plain32": Scenario("plain", ("-c", "32", "-d", "1.5"), ("-c", "32", "-d", "3"), "finished", "not streamed, 32 connections: CPU a request"),
    "plain1": Scenario(
        "plain", ("-c", "1", "-n", "30"), ("-c", "1", "-n", "400", "-R", "5000"), "finished", "not streamed, one connection, 200/s: added latency"
    ),
    "stream32": Scenario("stream", ("-c", "32", "-d", "0.6"), ("-c", "32", "-d", "3"), "events", "32 streams of 100 chunks: CPU a chunk"),
    "paced": Scenario("paced", ("-c", "4", "-n", "4"), ("-c", "32", "-n", "64"), "events", "32 streams, a chunk each 20 ms: added time to the first"),
    "long": Scenario("long", ("-c", "4", "-d", "0.5"), ("-c", "8", "-d", "3"), "finished", "a prompt of 300 kB: CPU a request"),
}
DEFAULT = "plain32,plain1,stream32,paced"
HOLD = """  holdN      N slow streams open at once: memory a stream (in a run of its own, for memory that was used before is used again),
             and the time between two chunks, 99th percentile"""


def bodies() -> dict[str, dict[str, Any]]:
    """Make the requests: a short question, streamed or not, and one with a long document."""
    system = {"role": "system", "content": "You answer questions about rivers and dams. Answer briefly and precisely."}
    question = {
        "role": "user",
        "content": "What does a weir do that a dam does not, and why would somebody who shares a river with others want one? Two sentences.",
    }
    plain = {"model": MODEL, "messages": [system, question], "max_tokens": 100, "temperature": 0.7}
    stream = {**plain, "stream": True, "stream_options": {"include_usage": True}}
    page = 'The gauge read 1.37 m; "steady", wrote the keeper \u2013 d\u00e9bit normal, \u6c34\u4f4d\u6b63\u5e38, and signed.\n'
    document = {"role": "user", "content": page * (300_000 // len(json.dumps(page)))}
    return {
        "plain": plain,
        "stream": stream,
        "paced": {**stream, "seed": 20},
        "slow": {**stream, "seed": 1000, "max_tokens": 15},
        "long": {**plain, "messages": [system, document, question]},
    }


@contextmanager
def upstream(port: int | None = None) -> Iterator[Mock]:
    """Compile what must be, write the requests where the load generator finds them, and run the mock (`port` None: on any)."""
    build(FOLDER)
    for name, body in bodies().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(body))
    mock = Mock(FOLDER, port or free_port()).start()
    try:
        yield mock
    finally:
        mock.process.stop()


def load(target: Target, body: str, arguments: tuple[str, ...]) -> Row:
    """Run the load generator against a target and return what it counted."""
    pinned = partial(os.sched_setaffinity, 0, {LOAD_CORE})
    done = subprocess.run(command(target, body, *arguments), capture_output=True, text=True, timeout=180, check=True, preexec_fn=pinned)
    row: Row = json.loads(done.stdout)
    return row


def command(target: Target, body: str, *arguments: str) -> list[str]:
    """Write the command of the load generator; the body's file names the model as the target calls it."""
    file = FOLDER / f"{body}.json"
    if target.model != MODEL:
        file = FOLDER / f"{body}-{target.name}.json"
        file.write_text(json.dumps({**json.loads((FOLDER / f"{body}.json").read_text()), "model": target.model}))
    headers = [part for header in target.headers for part in ("-H", header)]
    return [str(FOLDER / "load"), "-p", str(target.port), "-P", target.path, "-b", str(file), *headers, *arguments]


def measure(target: Target, mock: Mock, scenario: Scenario) -> Row:
    """Warm a target up, load it, and add the CPU time (us a unit) and the memory (MB) of its processes."""
    before = mock.served()
    load(target, scenario.body, scenario.warm)
    cpu_us = target.process.cpu_us() if target.process else 0.0
    row = load(target, scenario.body, scenario.measured)
    time.sleep(0.15)  # what a gateway does after its answer is its work too
    if target.process:
        row["cpu_us"] = (target.process.cpu_us() - cpu_us) / max(row[scenario.unit], 1)
        row["rss_mb"] = target.process.rss_kb() / 1024
    target.requests += mock.served() - before
    return row


def hold(target: Target, mock: Mock, streams: int) -> Row:
    """Open many slow streams at once and measure the memory that each costs (kB of RSS)."""
    before = mock.served()
    load(target, "plain", ("-c", "8", "-n", "50"))
    process = target.process
    base_kb = peak_kb = process.rss_kb() if process else 0
    opening = command(target, "slow", "-c", str(streams), "-n", str(streams), "-w", str(max(200, streams // 4)))
    with subprocess.Popen(opening, stdout=subprocess.PIPE, text=True) as running:
        while running.poll() is None:
            peak_kb = max(peak_kb, process.rss_kb() if process else 0)
            time.sleep(0.25)
        row: Row = json.loads(running.stdout.read() if running.stdout else "{}")
    target.requests += mock.served() - before
    return {**row, "kb_per_stream": (peak_kb - base_kb) / streams}


def start_targets(options: argparse.Namespace, mock: Mock, stack: ExitStack) -> Iterator[Target]:
    """Start each target asked for; one that cannot be started is named and left out, unless it is Weir."""
    for name in options.targets or ["direct", "bare", "nginx", *PEERS, "weir"]:
        try:
            if name == "direct":
                target = direct(mock)
            elif name == "nginx":
                target = nginx(mock, FOLDER / "nginx")
            elif name == "bare":
                target = bare(mock, FOLDER)
            elif name in PEERS:
                target = start(name, mock, FOLDER)
            elif name == "weir":
                target = Weir(mock, FOLDER / "weir")
            elif name == "weir-2":
                target = Weir(mock, FOLDER / "weir-2", workers=2)
            elif name == "weir-postgres":
                target = Weir(mock, FOLDER / "weir-postgres", stack.enter_context(fresh_database(stack.enter_context(postgres_server()))))
            else:
                target = other(name, options.add[name], FOLDER)
        except RuntimeError as error:
            if name.startswith("weir"):
                raise
            print(f"left out: {name}: {error}", file=sys.stderr)
            continue
        stack.callback(target.stop)
        yield target


def run_rounds(targets: list[Target], mock: Mock, options: argparse.Namespace) -> list[Row]:
    """Measure every scenario on every target, in turn, and print each figure as it comes."""
    rows = []
    for number in range(options.rounds):
        for name in options.scenarios.split(","):
            for target in targets if number % 2 == 0 else targets[::-1]:
                row = hold(target, mock, int(name[4:])) if name.startswith("hold") else measure(target, mock, SCENARIOS[name])
                row |= {"target": target.name, "scenario": name, "round": number}
                rows.append(row)
                wrong = row["failed"] + row["refused"] + row["short"]
                print(
                    f"{number} {target.name:14} {name:9} {row.get('cpu_us', 0):8.2f} us  {row['requests_per_s']:9,.0f} requests/s"
                    f"  {row['events_per_s']:9,.0f} chunks/s  p50 {row['p50_us']:,.0f} us  p99 {row['p99_us']:,.0f} us  wrong {wrong}",
                    file=sys.stderr,
                )
    return rows


def median(rows: list[Row], target: str, scenario: str, key: str) -> float | None:
    """Take the median of one figure over the rounds; None where it was not measured."""
    values = [row[key] for row in rows if row["target"] == target and row["scenario"].startswith(scenario) and key in row]
    return statistics.median(values) if values else None


def table(rows: list[Row]) -> str:
    """Write the medians, a line a target; "added" is against `direct` in the same run."""

    def show(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    def added(target: str, scenario: str, key: str) -> float | None:
        own, base = median(rows, target, scenario, key), median(rows, "direct", scenario, key)
        return None if own is None or base is None else own - base

    columns = ("us/request", "x nginx", "requests/s", "added p50 us", "us/chunk", "added TTFT us", "us/long", "kB/stream", "added gap us", "RSS MB", "wrong")
    lines = [f"{'target':14}" + "".join(f"{column:>15}" for column in columns)]
    for name in dict.fromkeys(row["target"] for row in rows):
        own, plain = median(rows, name, "plain32", "cpu_us"), median(rows, "nginx", "plain32", "cpu_us")
        cells = (
            show(own),
            show(own / plain if own and plain else None),
            show(median(rows, name, "plain32", "requests_per_s"), 0),
            show(added(name, "plain1", "p50_us"), 0),
            show(median(rows, name, "stream32", "cpu_us"), 2),
            show(added(name, "paced", "ttft_p50_us"), 0),
            show(median(rows, name, "long", "cpu_us"), 0),
            show(median(rows, name, "hold", "kb_per_stream")),
            show(added(name, "hold", "gap_p99_us"), 0),
            show(median(rows, name, "plain32", "rss_mb"), 0),
            str(sum(row["failed"] + row["refused"] + row["short"] for row in rows if row["target"] == name)),
        )
        lines.append(f"{name:14}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def over_budget(rows: list[Row], limits: Mapping[str, float]) -> list[str]:
    """Name each figure of Weir's that is above its limit."""
    found = []
    for scenario, limit in limits.items():
        own = median(rows, "weir", scenario, "cpu_us")
        if own is not None and own > limit:
            found.append(f"weir {scenario}: {own:.1f} us of CPU, at most {limit:g}")
    return found


def parse() -> argparse.Namespace:
    """Read the command line."""
    scenarios = "\n".join(f"  {name:10} {scenario.says}" for name, scenario in SCENARIOS.items())
    names = f"direct bare nginx {' '.join(PEERS)} weir weir-postgres weir-2"
    epilog = f"targets: {names}, and those of --add\nscenarios:\n{scenarios}\n{HOLD}"
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all but the last two")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-s", "--scenarios", default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("-o", "--out", type=Path, help="write every measurement as a line of JSON")
    parser.add_argument(
        "--add",
        type=json.loads,
        default={},
        metavar="JSON",
        help='{"name": {"command": "...", "port": "9000", "ready": "/health", "authorization": "Bearer x"}}',
    )
    parser.add_argument("--mock-port", type=int, default=0, help="where the mock listens, for the configuration of --add (default: any)")
    parser.add_argument("--budget", action="store_true", help="end with status 1 when Weir takes over 250 us a request or 12 us a chunk")
    return parser.parse_args()


def main() -> int:
    """Run the bench and return the exit status."""
    options = parse()
    with ExitStack() as stack:
        mock = stack.enter_context(upstream(options.mock_port))
        targets = list(start_targets(options, mock, stack))
        rows = run_rounds(targets, mock, options)
        for target in targets:
            if target.name != "direct":
                target.stop()
        checks = [line for target in targets if (line := target.check())]
    if options.out:
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print("\n" + table(rows) + "\n\n" + "\n".join(checks))
    problems = over_budget(rows, {"plain32": 250, "stream32": 12}) if options.budget else []
    problems += [line for line in checks if line.endswith("WRONG")]
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
