"""`weir plan`: what a tenant is promised. Setting a plan again writes its next version."""

from typing import Annotated, Any

import typer

from billing.errors import Invalid
from billing.operations import plans
from billing.plans.terms import PlanTerms, PlanVersion
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, cell, write_one, write_rows
from gateway.config.forms import PlanForm, plan_figures
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Plans: monthly credits, what follows them, limits and fee.")
PlanArgument = Annotated[str, typer.Argument(metavar="PLAN")]
BRIEF = ("id", "version", "credits", "on_exhausted", "monthly_fee", "currency", "tenants")
COLUMNS = (
    "id",
    "version",
    "credits",
    "seat_credits",
    "rollover_cap",
    "activate_on_first_use",
    "on_exhausted",
    "fallback_model",
    "slow_daily_cap",
    "weight",
    "slow_weight",
    "glide_percent",
    "fast_concurrency",
    "slow_concurrency",
    "slow_delay_ms",
    "slow_tokens_per_second",
    "slow_priority",
    "slow_flex",
    "spill_after_ms",
    "requests_per_minute",
    "tokens_per_minute",
    "allowed_models",
    "on_database_loss",
    "monthly_fee",
    "currency",
    "credit_price",
    "tenants",
    "created",
)


@app.command("set")
def put(
    plan: PlanArgument,
    *,
    credits: Annotated[str, typer.Option("--credits", help="granted every month")],
    name: Annotated[str, typer.Option("--name")] = "",
    seat_credits: Annotated[str, typer.Option("--seat-credits", help="beside them, to each active key every month, its own")] = "0",
    rollover_cap: Annotated[str | None, typer.Option("--rollover-cap", help="of what is left, at most so many stay for one more month")] = None,
    activate_on_first_use: Annotated[bool, typer.Option("--activate-on-first-use", help="months begin with the first request")] = False,
    on_exhausted: Annotated[str, typer.Option("--on-exhausted", help="past the credits: slow, overage (invoiced), block or fallback")] = "slow",
    fallback_model: Annotated[str | None, typer.Option("--fallback-model", help="with --on-exhausted fallback: the model that serves instead")] = None,
    slow_daily_cap: Annotated[str | None, typer.Option("--slow-daily-cap", help="credits' worth a day in the slow lane, at most")] = None,
    weight: Annotated[int, typer.Option("--weight", help="share of a busy backend, against other tenants")] = 1,
    slow_weight: Annotated[int, typer.Option("--slow-weight", help="the same without credits; at most --weight")] = 1,
    glide_percent: Annotated[int, typer.Option("--glide-percent", help="over the last so many percent of the credits the one falls to the other")] = 10,
    fast_concurrency: Annotated[int | None, typer.Option("--fast-concurrency", help="requests at once, with credits")] = None,
    slow_concurrency: Annotated[int | None, typer.Option("--slow-concurrency", help="the same without, more on idle slots; left out: 2")] = None,
    slow_delay_ms: Annotated[int, typer.Option("--slow-delay-ms", help="paced: without credits each request is held back so long, also where all is idle")] = 0,
    slow_tps: Annotated[int | None, typer.Option("--slow-tokens-per-second", help="how fast a stream's text comes without credits")] = None,
    slow_priority: Annotated[
        int, typer.Option("--slow-priority", help="without credits, in engines that schedule by priority: lower is earlier, fast is 0")
    ] = 10,
    slow_flex: Annotated[bool, typer.Option("--slow-flex/--no-slow-flex", help="without credits, buy a vendor's cheap slow tier where it sells one")] = True,
    spill_after_ms: Annotated[int | None, typer.Option("--spill-after-ms", help="with credits, go to the model's next backend after so long a wait")] = None,
    rpm: Annotated[int | None, typer.Option("--rpm", help="requests a minute")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", help="tokens a minute")] = None,
    models: Annotated[str | None, typer.Option("--models", help="a,b: these models only")] = None,
    on_database_loss: Annotated[str, typer.Option("--on-database-loss", help="while the books are away: slow, or closed")] = "slow",
    fee: Annotated[str | None, typer.Option("--fee", help="a month, in major units like 49.00; left out: none")] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="of --fee and --credit-price; left out: as it was")] = None,
    credit_price: Annotated[str | None, typer.Option("--credit-price", help="of a credit past the allowance, in major units like 0.01")] = None,
    config: ConfigOption = None,
) -> None:
    """Write a plan, or its next version. Tenants keep the version they are on until: weir tenant plan TENANT PLAN."""
    with open_books(config) as books:
        before = next((version.terms for version in plans.list_plans(books.database) if version.terms.plan == plan), None)
        if currency is None and before is None and (fee is not None or credit_price is not None):
            raise Invalid("currency", "--currency is missing: which one the fee and the credit price are in, like EUR")
        form = PlanForm(
            credits=credits,
            name=name,
            seat_credits=seat_credits,
            rollover_cap=rollover_cap,
            activate_on_first_use=activate_on_first_use,
            on_exhausted=on_exhausted,
            fallback_model=fallback_model,
            slow_daily_cap=slow_daily_cap,
            weight=weight,
            slow_weight=slow_weight,
            glide_percent=glide_percent,
            fast_concurrency=fast_concurrency,
            slow_concurrency=slow_concurrency,
            slow_delay_ms=slow_delay_ms,
            slow_tokens_per_second=slow_tps,
            slow_priority=slow_priority,
            slow_flex=slow_flex,
            spill_after_ms=spill_after_ms,
            requests_per_minute=rpm,
            tokens_per_minute=tpm,
            allowed_models=None if models is None else [model.strip() for model in models.split(",") if model.strip()],
            on_database_loss=on_database_loss,
            monthly_fee=fee or "0",
            currency=currency or (before.currency if before else "USD"),
            credit_price=credit_price,
        )
        version = plans.set_plan(books.database, form.terms(plan), books.now_us)
        counts = plans.count_subscribers(books.database, books.now_us)
        books.warn_unrouted(sorted({*(form.allowed_models or ()), *([fallback_model] if fallback_model else ())}), "what the plan says of it")
    typer.echo(f"plan {plan} version {version.version}: {form.credits} credits a month, then {form.on_exhausted}")
    write_one(_row(version, counts))
    if before is not None:
        typer.echo(f"other than version {version.version - 1}: {_differences(before, version.terms)}")


@app.command("list")
def index(every: Annotated[bool, typer.Option("--all", help="every version")] = False, form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List the newest version of every plan."""
    with open_books(config) as books:
        counts = plans.count_subscribers(books.database, books.now_us)
        rows = [_row(version, counts) for version in plans.list_plans(books.database, all_versions=every)]
    write_rows(rows, form, COLUMNS, "no plans; write one: weir plan set PLAN --credits 1000", brief=BRIEF)


@app.command()
def show(plan: PlanArgument, config: ConfigOption = None) -> None:
    """Show the newest version of a plan."""
    with open_books(config) as books:
        write_one(_row(plans.get_plan(books.database, plan), plans.count_subscribers(books.database, books.now_us)))


def _differences(before: PlanTerms, now: PlanTerms) -> str:
    old, new = plan_figures(before), plan_figures(now)
    changes = [f"{name.replace('_', ' ')} {cell(old[name])} -> {cell(new[name])}" for name in new if old[name] != new[name]]
    return ", ".join(changes) or "nothing"


def _row(version: PlanVersion, counts: dict[tuple[str, int], int]) -> dict[str, Any]:
    plan = version.terms.plan
    since = {"tenants": counts.get((plan, version.version), 0), "created": instant(version.created_us)}
    return {"id": plan, "version": version.version, **plan_figures(version.terms), **since}
