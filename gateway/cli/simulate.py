"""`weir simulate`: try plans on a day of traffic before selling them. It reads the books, and changes nothing in them."""

import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from billing.db import Database
from billing.errors import Invalid
from billing.rates.card import RateCard
from billing.rating import Rate
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, as_csv, write_rows
from gateway.cli.trial import (
    START_US,
    Trial,
    check_offers,
    choose_model,
    generated,
    names_file,
    read_offers,
    read_rates,
    recorded,
    recorded_span,
)
from gateway.clock import SystemClock
from gateway.config import Settings, config_path, load_settings
from gateway.lanes.standing import Lane
from gateway.simulate.engine import Pool, Simulation
from gateway.simulate.lane import LaneRules
from gateway.simulate.offer import Offer
from gateway.simulate.report import HOUR_COLUMNS, TENANT_COLUMNS, Figures, hour_rows, summary, tenant_rows
from gateway.simulate.traffic import HOUR_US, Shape

SLOTS = 100
HOURS = 24
IDLE = 0.3  # of the slots taken
NO_PLOTS = "note: no plots, for they need matplotlib: pip install 'weir-gateway[plots]'"
PLAN_COLUMNS = ("plan", "tenants", "requests", "served", "refused", "capped")
MONEY_COLUMNS = ("plan", "credits", "given_away", "fees", "overage", "revenue", "currency")
STANDING_COLUMNS = ("plan", "fast_%", "warn_%", "glide_%", "slow_%", "capped_%")
LANE_COLUMNS = ("plan", "lane", "served", "tokens_%", "per_weight", "refused", "capped", "starved", "spilled")
WAIT_COLUMNS = ("plan", "lane", "p50_s", "p95_s", "p99_s", "max_s", "queued_h")
WAITS = ("p50", "p95", "p99", "max")


class Show(StrEnum):
    """How to print what a trial came to."""

    table = "table"
    json = "json"


class Plots(StrEnum):
    """How to draw."""

    svg = "svg"
    png = "png"
    none = "none"


def simulate(
    *,
    plan: Annotated[
        list[str] | None,
        typer.Option("--plan", help="a stored NAME or a FILE.yaml, with :SHARE of the tenants behind it; repeatable", show_default=False),
    ] = None,
    tenants: Annotated[int, typer.Option("--tenants", min=1, max=1_000_000, help="with generated traffic")] = 1000,
    hours: Annotated[int | None, typer.Option("--hours", min=1, max=8784, help="left out: 24, or all that is recorded", show_default=False)] = None,
    requests_per_day: Annotated[
        list[str] | None, typer.Option("--requests-per-day", help="median of the tenants: 100, or by plan like pro=300", show_default=False)
    ] = None,
    input_tokens: Annotated[int, typer.Option("--input-tokens", min=1, max=100_000, help="of a prompt, median")] = 400,
    output_tokens: Annotated[int, typer.Option("--output-tokens", min=1, max=4096, help="of an answer, median")] = 150,
    model: Annotated[str | None, typer.Option("--model", help="what requests ask for; left out: the only one with a rate", show_default=False)] = None,
    rate: Annotated[
        list[str] | None, typer.Option("--rate", help="MODEL=INPUT/OUTPUT, credits per 1,000,000 tokens: in place of the stored rate", show_default=False)
    ] = None,
    timezone: Annotated[
        list[str] | None, typer.Option("--timezone", help="of the tenants' days; several are dealt out; default UTC", show_default=False)
    ] = None,
    recorded_: Annotated[
        str | None, typer.Option("--recorded", help="replay usage of the books: 2026-11, or the last 7d or 12h; without --plan on their own plans")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="what a recorded request is taken to have asked for at most")] = 1024,
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, max=100_000, help="requests at once; left out: the model's backend's, or 100", show_default=False)
    ] = None,
    slow_slots: Annotated[
        int | None, typer.Option("--slow-slots", min=1, help="of these for the slow lane at most; default 7 of 8", show_default=False)
    ] = None,
    prefill_tps: Annotated[int, typer.Option("--prefill-tps", min=1, help="tokens a second that a slot reads")] = 4000,
    decode_tps: Annotated[int, typer.Option("--decode-tps", min=1, help="tokens a second that a slot writes")] = 40,
    retries: Annotated[int, typer.Option("--retries", min=0, max=100, help="how often a client comes again that is told to come later")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="the same seed, the same traffic")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="a directory for the files")] = Path("weir-simulation"),
    plots: Annotated[Plots, typer.Option("--plots", help="form of the pictures")] = Plots.svg,
    form: Annotated[Show, typer.Option("--format", "-f", help="table for people, json for programs")] = Show.table,
    config: ConfigOption = None,
) -> None:
    """Try plans on traffic, made up or recorded, under a virtual clock: who waits how long, who is refused, what it brings in.

    The decisions are those that serve requests; the servers behind them are a model. Writes tenants.csv, hours.csv, summary.json and pictures.
    """
    named, clock = plan or [], SystemClock()
    if recorded_ is None and not named:
        raise Invalid("plan", "plan: name a plan to try: --plan NAME for a stored one, --plan FILE.yaml for one that is not stored yet")
    with _books(config, needed=recorded_ is not None or not rate or not all(map(names_file, named))) as (settings, database):
        offers, found = read_offers(named, database), read_rates(rate or [], database)
        if recorded_ is None:
            model = choose_model(model, found, clock.now_us())
            card = _as_of(found, clock.now_us())
            check_offers(offers, card, model, START_US)
            shapes = _shapes(offers, requests_per_day or [], Shape(model=model, input=input_tokens, output=output_tokens))
            trial = generated(offers, card, shapes, timezone or ["UTC"], count=tenants, hours=hours or HOURS, seed=seed)
        else:
            assert database is not None
            card = RateCard(found)
            start_us, end_us = recorded_span(recorded_, clock.now_us())
            end_us = end_us if hours is None else min(end_us, start_us + hours * HOUR_US)
            check_offers(offers, card, None, start_us)
            trial = recorded(database, offers, card, (start_us, end_us), asked=max_tokens, seed=seed)
        pool = Pool(slots=slots or _slots(settings, model), slow_slots=slow_slots, prefill_tps=prefill_tps, decode_tps=decode_tps)
        simulation = Simulation(
            trial.tenants, card, pool, _rules(settings), start_us=trial.start_us, end_us=trial.end_us, retries=retries, seed=seed, plans=len(trial.offers)
        )
        began_s = clock.monotonic_s()
        with _progress(trial) as progress:
            simulation.run(trial.arrivals, progress)
    figures = {"seed": seed, "traffic": recorded_ or "generated", **summary(simulation, trial.offers)}
    _show(figures, form)
    if figures["utilisation"] < IDLE:
        typer.echo(f"note: at {pool.slots} slots the pool was {figures['utilisation']:.0%} taken, so hardly anybody waited; try fewer --slots", err=True)
    typer.echo(f"{figures['requests']:,} requests in {clock.monotonic_s() - began_s:.0f} s, seed {seed}", err=True)
    _write(figures, simulation, trial.offers, out, plots)


@contextmanager
def _books(config: Path | None, *, needed: bool) -> Generator[tuple[Settings, Database | None]]:
    """Open the books where something of them is needed; else only the configuration."""
    if not needed:
        yield load_settings(config_path(config)), None
        return
    with open_books(config) as books:
        yield books.settings, books.database


def _as_of(found: Sequence[Rate], now_us: int) -> RateCard:
    """Return the rates that apply now, as they will whenever a trial of made-up traffic plays."""
    card = RateCard(found)
    current = [priced.rate for name in {rate.model for rate in found} if (priced := card.at(name, now_us)) is not None]
    return RateCard(replace(rate, effective_us=0) for rate in current)


def _shapes(offers: Sequence[Offer], wanted: Sequence[str], shape: Shape) -> dict[str, Shape]:
    shapes = {offer.name: shape for offer in offers}
    for text in sorted(wanted, key=lambda text: "=" in text):  # the general first
        name, _equals, number = text.rpartition("=")
        if not (number.isascii() and number.isdigit() and 0 < int(number) <= 10**6):
            raise Invalid("requests_per_day", f"requests_per_day: `{text}` must be a whole number above 0, or PLAN=NUMBER")
        if name and name not in shapes:
            raise Invalid("requests_per_day", f"requests_per_day: `{text}`: plan `{name}` is not tried; those are: {', '.join(shapes)}")
        shapes |= {plan: replace(shapes[plan], per_day=int(number)) for plan in ([name] if name else shapes)}
    return shapes


def _slots(settings: Settings, model: str | None) -> int:
    """Return how many requests the model's first backend is given at once; what it would learn by itself cannot be known here."""
    routed = None if model is None else settings.models.get(model)
    slots = SLOTS if routed is None else settings.backends[routed.routes[0].backend].slots
    return slots if isinstance(slots, int) else SLOTS


def _rules(settings: Settings) -> dict[Lane, LaneRules]:
    lanes = {Lane.FAST: settings.lanes.fast, Lane.SLOW: settings.lanes.slow}
    return {lane: LaneRules(depth_max=own.depth_max, wait_us=own.wait_ms_max * 1000, age_us=own.age_ms_max * 1000) for lane, own in lanes.items()}


@contextmanager
def _progress(trial: Trial) -> Generator[Callable[[int], None]]:
    """Give what shows how far the virtual clock has come, on a terminal."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda done_us: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("simulating", total=trial.end_us - trial.start_us)
        yield lambda done_us: bar.update(task, completed=done_us)


def _show(figures: Figures, form: Show) -> None:
    if form is Show.json:
        typer.echo(json.dumps(figures, ensure_ascii=False, indent=2))
        return
    plans: list[dict[str, Any]] = figures["plans"]
    lanes = [_lane_row(row, lane) for row in plans for lane in row["lanes"]]
    for columns, rows in (
        (PLAN_COLUMNS, plans),
        (MONEY_COLUMNS, [_money_row(row) for row in plans]),
        (STANDING_COLUMNS, [_standing_row(row) for row in plans]),
        (LANE_COLUMNS, lanes),
        (WAIT_COLUMNS, lanes),
    ):
        write_rows(rows, Format.table, columns)
        typer.echo()
    typer.echo(f"pool: {figures['slots']} slots, {figures['slow_slots']} of them also for the slow lane, {figures['utilisation']:.0%} taken")
    money = ", ".join(f"{amount} {currency}" for currency, amount in figures["revenue"].items())
    typer.echo(f"revenue of {figures['hours']:g} h: {money}; under way at the end: {figures['under_way']}")


def _money_row(row: Figures) -> Figures:
    return {**row, "credits": _two(row["credits"]), "given_away": _two(row["excess_credits"]), "overage": row["overage_amount"]}


def _standing_row(row: Figures) -> Figures:
    return {"plan": row["plan"], **{f"{name}_%": round(100 * part, 1) for name, part in row["standing"].items()}}


def _lane_row(row: Figures, lane: str) -> Figures:
    own = row["lanes"][lane]
    seconds = {f"{name}_s": None if own[f"wait_ms_{name}"] is None else round(own[f"wait_ms_{name}"] / 1000, 2) for name in WAITS}
    return {**own, **seconds, "plan": row["plan"], "lane": lane, "tokens_%": round(100 * own["token_share"], 1), "per_weight": own["share_per_weight"]}


def _two(credits: str) -> str:
    """Cut credits to two decimals, for a table; the files have them all."""
    whole, _point, part = credits.partition(".")
    return f"{whole}.{part[:2]:0<2}"


def _write(figures: Figures, simulation: Simulation, offers: Sequence[Offer], out: Path, plots: Plots) -> None:
    """Write the files. Raises `Invalid` where that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "tenants.csv").write_text(as_csv(list(tenant_rows(simulation)), TENANT_COLUMNS), encoding="utf-8", newline="")
        (out / "hours.csv").write_text(as_csv(list(hour_rows(simulation, offers)), HOUR_COLUMNS), encoding="utf-8", newline="")
        (out / "summary.json").write_text(json.dumps(figures, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        drawn = _draw(simulation, offers, out, plots)
    except OSError as error:
        raise Invalid("out", f"out: {out}: cannot be written: {error.strerror or error}") from None
    typer.echo(f"wrote {out}: {', '.join(['tenants.csv', 'hours.csv', 'summary.json', *drawn])}", err=True)


def _draw(simulation: Simulation, offers: Sequence[Offer], out: Path, plots: Plots) -> list[str]:
    if plots is Plots.none:
        return []
    if find_spec("matplotlib") is None:
        typer.echo(NO_PLOTS, err=True)
        return []
    from gateway.simulate.plots import draw  # here: its package comes with an extra

    return [path.name for path in draw(simulation, offers, out, plots.value)]
