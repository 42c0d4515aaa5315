"""Compare what Weir costs with what it cost when that was last recorded, and fail on a regression beyond noise.

Times are the machine's of the hour; what is compared is Weir's CPU time over that of a bare relay on the same event loop (`bare.py`), measured in turns,
each at its best of several rounds: other work on the machine only ever adds. `--record` writes what was measured as the new standard.
"""

import argparse
import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # started as a script

from tests.bench import rig  # noqa: E402
from tests.bench.targets import Target, Weir, bare  # noqa: E402

STANDARD = Path(__file__).with_name("ratios.json")
SCENARIOS = ("plain32", "stream32")
WORSE, WORSE_SHORT = 1.25, 1.75  # the short form has fewer rounds, and runs where other things do
TRIES_SHORT = 3  # other work on the machine passes, a regression stays


def best(rows: list[rig.Row], target: str, scenario: str) -> float:
    """Return the least CPU time (us a unit) over the rounds."""
    return min(row["cpu_us"] for row in rows if (row["target"], row["scenario"]) == (target, scenario))


def measured(rounds: int, seconds: float) -> tuple[dict[str, float], list[str]]:
    """Measure in turns; return the ratios by scenario, and what is wrong with the books."""
    rows: list[rig.Row] = []
    with ExitStack() as stack:
        mock = stack.enter_context(rig.upstream())
        targets: list[Target] = []
        for target in (bare(mock, rig.FOLDER), Weir(mock, rig.FOLDER / "weir")):
            stack.callback(target.stop)
            targets.append(target)
        for number in range(rounds):
            for name in SCENARIOS:
                scenario = rig.SCENARIOS[name]
                short = rig.Scenario(scenario.body, ("-c", "32", "-d", f"{seconds / 2}"), ("-c", "32", "-d", f"{seconds}"), scenario.unit, scenario.says)
                turn = targets if number % 2 == 0 else targets[::-1]
                rows += [{**rig.measure(target, mock, short), "target": target.name, "scenario": name} for target in turn]
        targets[1].stop()
        verdict = targets[1].check()
    for name in SCENARIOS:
        print(f"{name}: bare {best(rows, 'bare', name):.2f} us, weir {best(rows, 'weir', name):.2f} us")
    print(verdict)
    return {name: best(rows, "weir", name) / best(rows, "bare", name) for name in SCENARIOS}, [verdict] if verdict.endswith("WRONG") else []


def regressions(ratios: dict[str, float], worse: float) -> list[str]:
    """Print the ratios beside those recorded, and return what is said of those that are more than `worse` times theirs."""
    standard: dict[str, float] = json.loads(STANDARD.read_text())
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times a bare relay; recorded {standard[name]:.2f}, at most {standard[name] * worse:.2f}")
    return [f"{name} costs {ratio / standard[name]:.2f} times what was recorded" for name, ratio in ratios.items() if ratio > standard[name] * worse]


def main() -> int:
    """Run the check and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="half a minute, and more room for noise: what CI runs")
    parser.add_argument("--record", action="store_true", help=f"write what is measured to {STANDARD.name}")
    options = parser.parse_args()
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        print("bench-check: not run: there is no C compiler for the load generator (apt install gcc)")
        return 0
    for _ in range(TRIES_SHORT if options.short else 1):
        ratios, wrong = measured(3, 1.0) if options.short else measured(7, 2.0)
        if options.record:
            STANDARD.write_text(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}, indent=2) + "\n")
        dear = regressions(ratios, WORSE_SHORT if options.short else WORSE)
        if wrong or not dear:
            break
    print("\n".join(wrong + dear) or "bench-check: passed")
    return 1 if wrong + dear else 0


if __name__ == "__main__":
    sys.exit(main())
