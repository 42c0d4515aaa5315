"""What `lanes_vllm.py` measured, and what it must show: figures, claims that hold or do not, a table, CSV, a plot."""

import csv
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.bench.flood import PAYING, Answer, Stretch, Traffic

RATIO_MAX = 1.5  # the paying tenant's median time to first token with lanes, over the idle server's
WORSE_MIN = 3.0  # and without
EVEN_MAX = 1.5  # where the same work takes the idle server so many times as long now and then, others use the machine
QUIET_MAX = 0.2  # cores of others: two processors are often one core's two threads, and then one that works halves the other's speed
COLOURS = {"idle": "#4c72b0", "lanes": "#2a8f57", "fifo": "#dd8452", "direct": "#c44e52"}
SAID = {"idle": "idle server", "lanes": "flood, Weir", "fifo": "flood, no lanes", "direct": "flood, no gateway"}


@dataclass(frozen=True)
class Limits:
    """How the gateway is set. A slow request that has waited `wait_s_max` is refused; by `age_s_max` after it came it has its first token or that."""

    slots: int = 16
    slow_depth_max: int = 40
    wait_s_max: float = 50
    age_s_max: float = 60
    comment_every_s: float = 5


@dataclass
class Run:
    """What was measured. `events`: the rows of the books, by id. `foreign`: cores that other processes used, `stolen`: that the host withheld, by stretch."""

    traffic: Traffic
    limits: Limits
    kinds: Sequence[str] = ("lanes", "fifo", "direct")
    stretches: list[Stretch] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    stolen: list[float] = field(default_factory=list)
    finished: int = 0  # requests from Weir that the engine says it answered whole
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    verified: bool = False  # by `weir ledger verify`, afterwards

    def of(self, *kinds: str) -> Iterator[Stretch]:
        yield from (stretch for stretch in self.stretches if stretch.name in kinds)

    def answers(self, *kinds: str) -> list[Answer]:
        """List what came of the requests of some kinds of stretches."""
        return [answer for stretch in self.of(*kinds) for answer in stretch.answers]

    def slow(self) -> list[Answer]:
        """List the flood's answers through Weir."""
        return [answer for answer in self.answers("lanes") if answer.tenant != PAYING]

    def waits_s(self, kind: str, rounds: Sequence[int] | None = None) -> list[float]:
        """List the paying tenant's times to first token, or for how long it had none, ascending."""
        found = [answer for answer in self.answers(kind) if answer.tenant == PAYING and (rounds is None or answer.round in rounds)]
        return sorted(answer.wait_s for answer in found)

    def ratio(self, kind: str) -> float:
        """Return the median time to first token over the idle server's."""
        return statistics.median(self.waits_s(kind)) / statistics.median(self.waits_s("idle"))

    def tokens_per_s(self, kind: str, window: str) -> float:
        """Return the flood's tokens a second: `alone`, or `together` with the paying tenant."""
        return statistics.mean(stretch.tokens_per_s(getattr(stretch, window)) for stretch in self.of(kind))

    def disturbed(self) -> str:
        """Say what disturbed the machine meanwhile; "" where nothing did."""
        waits = self.waits_s("idle")
        low, high = waits[len(waits) // 10], waits[-1 - len(waits) // 10]
        said = []
        if high > EVEN_MAX * low:
            said.append(f"one idle request in ten took under {low * 1000:.0f} ms, one over {high * 1000:.0f}")
        if max(self.foreign) > QUIET_MAX or max(self.stolen) > QUIET_MAX:
            said.append(f"other processes used up to {max(self.foreign):.2f} cores, and the host withheld up to {max(self.stolen):.2f}")
        return "; ".join(said)


@dataclass(frozen=True)
class Claim:
    """Something that must be so, with the figures that say whether it `holds`."""

    text: str
    holds: bool


def claims(run: Run, alone_min: float) -> list[Claim]:
    """List all that the run must show."""
    return [*speed(run, alone_min), *exact(run)]


def speed(run: Run, alone_min: float) -> list[Claim]:
    """Claim that lanes keep the time to first token, that without them it is lost, and that it costs the flood little.

    `alone_min`: the share of the tokens that the flood gets of the engine without a gateway, that it gets through Weir while the paying tenant is away.
    """
    share = run.tokens_per_s("lanes", "alone") / run.tokens_per_s("direct", "alone")
    beside = run.tokens_per_s("lanes", "together")
    kept = run.ratio("lanes")
    return [
        Claim(f"with lanes the median time to first token is {kept:.2f} times the idle server's, at most {RATIO_MAX}", kept <= RATIO_MAX),
        *(Claim(f"{SAID[kind]}: it is {run.ratio(kind):.1f} times that, at least {WORSE_MIN}", run.ratio(kind) >= WORSE_MIN) for kind in run.kinds[1:]),
        Claim(f"by itself the slow lane gets {share:.2f} of the tokens/s of the flood without a gateway, at least {alone_min}", share >= alone_min),
        Claim(f"beside the paying tenant it gets {beside:.0f} tokens/s", beside > 0),
    ]


def exact(run: Run) -> list[Claim]:
    """List what no machine is too slow for."""
    return [*patience(run), *said(run), *books(run)]


def patience(run: Run) -> list[Claim]:
    """Claim that no slow tenant starves."""
    late = [answer for answer in run.slow() if answer.wait_s > run.limits.age_s_max and not answer.refusal]
    mute = [answer for answer in run.slow() if answer.refusal and not (answer.refusal == "slow_down" and answer.retry_after_s)]
    starved = {
        (stretch.round, tenant)
        for stretch in run.of("lanes")
        for tenant in run.traffic.names
        if not any(answer.tenant == tenant and (answer.first_s is not None or answer.refusal) for answer in stretch.answers)
    }
    firsts = [answer.first_s for answer in run.slow() if answer.first_s is not None]
    spread = f"median {statistics.median(firsts):.1f}, longest {max(firsts):.1f}"
    refused = [answer for answer in run.slow() if answer.refusal]
    begun = sum(answer.status == 200 for answer in refused)
    return [
        Claim(f"slow requests had their first token within {run.limits.age_s_max:g} s ({spread}; {len(late)} not)", not late),
        Claim(
            f"{len(refused)} were refused, each told when to come again ({len(mute)} not); {begun} of them by an event, for their stream had begun", not mute
        ),
        Claim(f"each slow tenant had a first token, or that, in every stretch ({len(starved)} not)", not starved),
    ]


def said(run: Run) -> list[Claim]:
    """Claim that the heads say what was so."""
    paid = [answer for answer in run.answers("idle", "lanes") if answer.tenant == PAYING]
    slow = [answer for answer in run.slow() if answer.status == 200]
    served = [answer for answer in (*paid, *slow) if answer.first_s is not None]
    odd = [answer for answer in paid if (answer.status, answer.lane, answer.reason, answer.standing) != (200, "fast", "credits", "fast")]
    odd += [answer for answer in slow if (answer.lane, answer.reason, answer.standing) != ("slow", "credits_exhausted", "slow")]
    wrong = [answer for answer in served if answer.queue_ms is None or not 0 <= answer.queue_ms <= answer.wait_s * 1000]
    return [
        Claim(
            f"{len(paid)} answers of the paying tenant say fast, credits; {len(slow)} of the others slow, credits_exhausted ({len(odd)} say otherwise)", not odd
        ),
        Claim(f"x-weir-queue-ms is on each of {len(served)} and at most the time to first token ({len(wrong)} not)", not wrong),
    ]


def books(run: Run) -> list[Claim]:
    """Claim that every request that reached the engine is one usage event, and no other is."""
    answers = run.answers("spend", "idle", "lanes")
    whole = [answer for answer in answers if answer.output is not None]
    names = {answer.event for answer in whole}
    wrong = [answer for answer in whole if run.events.get(answer.event, {}) != run.events.get(answer.event, {}) | expected(answer)]
    cut = sum(answer.cut for answer in answers)
    rest = [event for name, event in run.events.items() if name not in names]
    complete = sum(event["outcome"] == "complete" for event in run.events.values())
    known = sum(bool(event["cache_read"]) for event in run.events.values())
    strange = [event for event in rest if event["outcome"] == "complete"]
    return [
        Claim(
            f"{len(whole)} answers are each one usage event with the tenant, lane, tokens and wait that were said ({len(wrong)} not)",
            not wrong and len(names) == len(whole),
        ),
        Claim(f"{len(rest)} more events are of the {cut} requests that we cut ({len(strange)} not)", not strange and len(rest) <= cut),
        Claim(f"the engine counts {run.finished} whole answers, the books {complete}", run.finished == complete),
        Claim(f"the engine had read no prompt before ({known} it had)", not known),
        Claim("`weir ledger verify` finds that facts, ledger and balances agree", run.verified),
    ]


def expected(answer: Answer) -> dict[str, Any]:
    """Say what the event of an answer that came whole holds."""
    return {"tenant_id": answer.tenant, "lane": answer.lane, "output": answer.output, "outcome": "complete", "queue_ms": answer.queue_ms}


def table(run: Run) -> str:
    """Write the figures, and what they must show, as text."""
    lines = [
        "| stretches | requests | median ms | p90 | longest | times idle | flood alone, tokens/s | beside the paying tenant |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("idle", *run.kinds):
        waits = run.waits_s(kind)
        p90 = waits[min(len(waits) - 1, round(0.9 * len(waits)))]
        ms = " | ".join(f"{value * 1000:,.0f}" for value in (statistics.median(waits), p90, waits[-1]))
        flood = "|" if kind == "idle" else f"{run.tokens_per_s(kind, 'alone'):.0f} | {run.tokens_per_s(kind, 'together'):.0f}"
        lines.append(f"| {SAID[kind]} | {len(waits)} | {ms} | {run.ratio(kind):.2f} | {flood} |")
    return "\n".join(lines)


def write_csv(run: Run, path: Path) -> None:
    """Write a row for each request."""
    names = [one.name for one in fields(Answer) if one.name != "text_s"]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*names, "tokens"])
        for stretch in run.stretches:
            rows.writerows([*(getattr(answer, name) for name in names), len(answer.text_s)] for answer in stretch.answers)


def plot(run: Run, path: Path) -> None:
    """Draw the paying tenant's times over the run and as shares, and what the slow tenants waited."""
    from matplotlib import pyplot as plt

    figure, (over, shares, slow) = plt.subplots(1, 3, figsize=(17, 5.2), layout="constrained", width_ratios=(1.5, 1, 1))
    median_s = statistics.median(run.waits_s("idle"))
    for kind in ("idle", *run.kinds):
        paid = [answer for answer in run.answers(kind) if answer.tenant == PAYING]
        over.scatter([answer.sent_s for answer in paid], [answer.wait_s for answer in paid], s=14, color=COLOURS[kind], label=SAID[kind], zorder=3)
        waits = run.waits_s(kind)
        shares.step([waits[0], *waits], [index / len(waits) for index in range(len(waits) + 1)], where="post", color=COLOURS[kind], label=SAID[kind])
        for stretch in run.of(kind):
            over.axvspan(stretch.together[0], stretch.together[1], color=COLOURS[kind], alpha=0.12, linewidth=0)
    over.set(title="One tenant in credit, a request every 2 s", xlabel="s of the run", ylabel="time to first token, s", yscale="log")
    shares.set(title="Its times to first token", xlabel="time to first token, s", ylabel="share of requests", xscale="log", ylim=(0, 1))
    for axes, line in ((over, over.axhline), (shares, shares.axvline)):
        line(RATIO_MAX * median_s, color="#555555", linestyle="--", linewidth=1, label=f"{RATIO_MAX} times the idle median")
        axes.grid(alpha=0.25)
    over.yaxis.set_major_formatter("{x:g}")
    shares.xaxis.set_major_formatter("{x:g}")
    over.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)
    _draw_slow(run, slow)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_slow(run: Run, axes: Any) -> None:
    places = {tenant: index for index, tenant in enumerate(run.traffic.names, 1)}
    served = [answer for answer in run.slow() if answer.first_s is not None]
    refused = [answer for answer in run.slow() if answer.refusal]
    axes.scatter([places[one.tenant] for one in served], [one.wait_s for one in served], s=12, color=COLOURS["lanes"], label="first token")
    axes.scatter(
        [places[one.tenant] for one in refused], [one.wait_s for one in refused], s=20, color=COLOURS["direct"], marker="x", label="429 that says when"
    )
    axes.axhline(run.limits.age_s_max, color="#555555", linestyle="--", linewidth=1, label="age limit")
    axes.set(
        title="Twenty tenants past their credits, through Weir",
        xlabel="tenant",
        ylabel="s after the request",
        ylim=(-1, None),
        xticks=[1, *range(5, len(places) + 1, 5)],
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
