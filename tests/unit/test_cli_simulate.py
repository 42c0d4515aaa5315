"""`weir simulate`: plans from files and from the books, traffic made up and recorded, the files it writes, and what it says when it cannot."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.db import Database
from billing.meter import Meter
from billing.operations import tenants
from billing.usage.event import UsageEvent
from billing.usage.store import events_between, insert_events
from gateway.cli import simulate
from gateway.simulate.recorded import replayed
from gateway.simulate.report import HOUR_COLUMNS, TENANT_COLUMNS
from gateway.simulate.traffic import Arrival
from tests.books import event
from tests.clock import START_US, ManualClock
from tests.command import Weir, weir_in

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
FREE = "credits: 1\nslow_daily_cap: 0.2\n"
PRO = 'credits: 20\nweight: 4\nmonthly_fee: "49.00"\non_exhausted: overage\ncredit_price: "0.50"\n'
SMALL = ("--tenants", "40", "--hours", "2", "--rate", "m=0.5/1.5", "--slots", "2", "--requests-per-day", "400")


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    (tmp_path / "free.yaml").write_text(FREE)
    (tmp_path / "pro.yaml").write_text(PRO)
    return command


def rows(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_a_plan_is_tried_before_it_is_stored_and_without_books(weir: Weir) -> None:
    Path("weir-data/weir.db").unlink()
    said = weir("simulate", "--plan", "pro.yaml:0.25", "--plan", "free.yaml:0.75", *SMALL, "--plots", "none")
    assert (said.code, said.err.splitlines()[-1]) == (0, "wrote weir-simulation: tenants.csv, hours.csv, summary.json")
    assert not Path("weir-data/weir.db").exists()
    summary = json.loads(Path("weir-simulation/summary.json").read_text())
    assert [(plan["plan"], plan["tenants"]) for plan in summary["plans"]] == [("pro", 10), ("free", 30)]
    tables = [[line.split() for line in table.splitlines()] for table in said.out.split("\n\n")]
    assert tables[0][0] == ["plan", "tenants", "requests", "served", "refused", "capped"] and tables[0][1][:2] == ["pro", "10"]
    pro = summary["plans"][0]
    assert tables[1][1][3:] == [pro["fees"], pro["overage_amount"], pro["revenue"], "USD"]
    assert [row[:2] for row in tables[4][1:]] == [["pro", "fast"], ["pro", "slow"], ["free", "fast"], ["free", "slow"]]
    assert summary["requests"] == sum(summary[end] for end in ("served", "refused", "capped", "under_way")) > 1000


def test_files_have_a_row_for_each_tenant_and_each_hour_plan_and_lane(weir: Weir) -> None:
    zones = ("--timezone", "UTC", "--timezone", "Asia/Tokyo")
    weir("simulate", "--plan", "pro.yaml", "--plan", "free.yaml", *SMALL, "--out", "there/it/is", "--plots", "none", *zones)
    by_tenant, by_hour = rows("there/it/is/tenants.csv"), rows("there/it/is/hours.csv")
    summary = json.loads(Path("there/it/is/summary.json").read_text())
    assert (len(by_tenant), tuple(by_tenant[0])) == (40, TENANT_COLUMNS)
    assert (len(by_hour), tuple(by_hour[0])) == (2 * 2 * 2, HOUR_COLUMNS)
    assert [(row["hour"], row["plan"], row["lane"]) for row in by_hour[:3]] == [
        ("2027-01-04T00:00:00Z", "pro", "fast"),
        ("2027-01-04T00:00:00Z", "pro", "slow"),
        ("2027-01-04T00:00:00Z", "free", "fast"),
    ]
    assert {row["timezone"] for row in by_tenant} == {"UTC", "Asia/Tokyo"}
    assert sum(int(row["requests"]) for row in by_tenant) == sum(int(row["requests"]) for row in by_hour) == summary["requests"]
    standing = sum(float(row[name]) for row in by_hour for name in row if name.startswith("tenants_"))
    assert standing == pytest.approx(40 * 2, abs=0.5)


def test_the_same_seed_writes_the_same_bytes_pictures_too(weir: Weir) -> None:
    def files(out: str, *more: str) -> dict[str, bytes]:
        assert weir("simulate", "--plan", "free.yaml", *SMALL, "--out", out, *more).code == 0
        return {path.name: path.read_bytes() for path in sorted(Path(out).iterdir())}

    first = files("one")
    assert sorted(first) == ["fairness.svg", "hours.csv", "standings.svg", "summary.json", "tenants.csv", "tokens.svg", "waits.svg"]
    assert all(first[name].startswith(b"<?xml") and b"2026" not in first[name][:600] for name in first if name.endswith(".svg"))
    assert files("two") == first
    other = files("three", "--seed", "2", "--plots", "none")
    assert len(other) == 3 and all(other[name] != first[name] for name in other)


def test_pictures_can_be_png(weir: Weir) -> None:
    said = weir("simulate", "--plan", "free.yaml", *SMALL, "--plots", "png")
    assert said.err.endswith("summary.json, waits.png, tokens.png, standings.png, fairness.png\n")
    assert all(Path(f"weir-simulation/{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("waits", "tokens", "standings", "fairness"))


def test_without_matplotlib_it_says_how_to_get_the_pictures(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = weir("simulate", "--plan", "free.yaml", *SMALL)
    assert (said.code, said.err.splitlines()[-2:]) == (
        0,
        ["note: no plots, for they need matplotlib: pip install 'weir-gateway[plots]'", "wrote weir-simulation: tenants.csv, hours.csv, summary.json"],
    )


def test_json_is_the_summary_alone(weir: Weir) -> None:
    said = weir("simulate", "--plan", "free.yaml", *SMALL, "--plots", "none", "--format", "json")
    assert json.loads(said.out) == json.loads(Path("weir-simulation/summary.json").read_text())


def test_stored_plans_at_stored_rates(weir: Weir) -> None:
    weir("plan", "set", "team", "--credits", "5", "--fee", "31.00", "--currency", "EUR")
    weir("rate", "set", "big", "--input", "2", "--output", "4")
    said = weir("simulate", "--plan", "team", "--tenants", "10", "--hours", "1", "--plots", "none", "--format", "json", "--requests-per-day", "team=50")
    summary = json.loads(said.out)
    assert summary["plans"][0]["currency"] == "EUR" and list(summary["revenue"]) == ["EUR"]
    assert "note: at 100 slots the pool was 0% taken, so hardly anybody waited; try fewer --slots" in said.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "name a plan to try"),
        (["--plan", "none.yaml", "--rate", "m=1/1"], "none.yaml: cannot be read"),
        (["--plan", "odd.yaml", "--rate", "m=1/1"], "odd.yaml:2: unknown key `wieght`; did you mean `weight`?"),
        (["--plan", "bad.yaml", "--rate", "m=1/1"], "bad.yaml:1: `credits`: -1 must be 0 or more"),
        (["--plan", "free.yaml:0", "--rate", "m=1/1"], "the share behind the colon must be a number above 0"),
        (["--plan", "free.yaml", "--plan", "free.yaml", "--rate", "m=1/1"], "`free` is named twice"),
        (["--plan", "gone", "--rate", "m=1/1"], "gone"),
        (["--plan", "free.yaml"], "none has a rate; give one with --rate"),
        (["--plan", "free.yaml", "--rate", "m=1"], "write credits per 1,000,000 tokens like"),
        (["--plan", "free.yaml", "--rate", "m=1/1", "--rate", "n=1/1"], "which model do the requests ask for? rated are m, n"),
        (["--plan", "free.yaml", "--rate", "m=1/1", "--model", "x"], "`x` has no rate"),
        (["--plan", "back.yaml", "--rate", "m=1/1"], "falls back to `small`, which has no rate"),
        (["--plan", "free.yaml", "--rate", "m=1/1", "--requests-per-day", "po=3"], "plan `po` is not tried; those are: free"),
        (["--plan", "free.yaml", "--rate", "m=1/1", "--timezone", "Mars"], "`Mars` is not an IANA time zone"),
        (["--recorded", "yesterday"], "`yesterday` is no span"),
        (["--recorded", "7d"], "no tenant was on a plan then"),
    ],
)
def test_what_cannot_be_tried_is_said(weir: Weir, options: list[str], told: str) -> None:
    Path("odd.yaml").write_text("credits: 1\nwieght: 2\n")
    Path("bad.yaml").write_text("credits: -1\n")
    Path("back.yaml").write_text("credits: 1\non_exhausted: fallback\nfallback_model: small\n")
    said = weir("simulate", *options)
    assert said.code == 2 and told in said.err, said.err
    assert not Path("weir-simulation").exists()


def record(database: Database) -> list[UsageEvent]:
    """Two tenants' requests of an hour and a half; one before, of this month, that used half a credit."""
    found = [
        event(1, 500_000_000, tenant="acme", started_us=START_US - DAY_US),
        *(
            event(2 + index, 30_000_000, tenant=("acme", "beta")[index % 2], started_us=START_US + index * 450_000_000 + (index % 3), lane="fast")
            for index in range(12)
        ),
    ]
    found[3] = UsageEvent(**{**{name: getattr(found[3], name) for name in UsageEvent.__struct_fields__}, "meter": Meter(input=10, cache_read=90, output=40)})
    with database.write() as session:
        insert_events(session, found, {one.id: one.cover_ncr for one in found})
    return found


@pytest.fixture
def database(weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    books = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    monkeypatch.setattr(simulate, "SystemClock", lambda: ManualClock(START_US + 2 * HOUR_US))
    weir("plan", "set", "basic", "--credits", "1")
    weir("plan", "set", "basic", "--credits", "2")
    weir("rate", "set", "m", "--input", "1000", "--output", "3000")
    for name in ("acme", "beta"):
        tenants.create_tenant(books, id=name, name=name, plan="basic", currency="USD", timezone="Europe/Berlin", now_us=START_US - 10 * DAY_US)
    yield books
    books.close()


def test_recorded_traffic_is_what_the_books_have(weir: Weir, database: Database) -> None:
    events = record(database)

    def read(start_us: int, end_us: int) -> list[UsageEvent]:
        with database.read() as session:
            return [found for found, _covered_ncr in events_between(session, start_us, end_us)]

    came = list(replayed(read, {"acme": 0, "beta": 1}, START_US, START_US + 2 * HOUR_US, asked=20))
    assert came == [
        Arrival(
            at_us=one.started_us,
            tenant=("acme", "beta").index(one.tenant_id),
            model="m",
            input=100 if one is events[3] else 7,
            output=one.meter.output or 0,
            output_max=max(20, one.meter.output or 0),
            meter=one.meter,
        )
        for one in events[1:]
    ]
    assert [one.tenant for one in replayed(read, {"beta": 0}, START_US, START_US + HOUR_US // 2, asked=20)] == [0, 0]


def test_recorded_traffic_replays_on_the_tenants_own_plans_or_on_others(weir: Weir, database: Database) -> None:
    record(database)
    rate = ("--rate", "m=1000/3000")
    said = weir("simulate", "--recorded", "2h", *rate, "--plots", "none", "--format", "json")
    summary = json.loads(said.out)
    assert [plan["plan"] for plan in summary["plans"]] == ["basic"]
    assert (summary["requests"], summary["served"], summary["starts"], summary["hours"]) == (12, 12, "2026-11-03T12:00:00Z", 2.0)
    # eleven of 7 in and 3 out, and one of 100 in and 40 out, at 0.001 and 0.003 credits
    assert summary["plans"][0]["credits"] == "0.396"
    by_tenant = {row["tenant"]: row for row in rows("weir-simulation/tenants.csv")}
    assert (by_tenant["acme"]["credits_at_start"], by_tenant["beta"]["credits_at_start"]) == ("1.5", "2")
    assert by_tenant["acme"]["timezone"] == "Europe/Berlin" and by_tenant["acme"]["month_ends"] == "2026-11-24T13:00:00Z"
    tried = json.loads(weir("simulate", "--recorded", "2026-11", "--hours", "61", "--plan", "pro.yaml", *rate, "--plots", "none", "--format", "json").out)
    assert [(plan["plan"], plan["tenants"], plan["served"]) for plan in tried["plans"]] == [("pro", 2, 9)]  # one the day before, eight of the hour


def test_a_recorded_model_without_a_rate_is_said(weir: Weir, database: Database) -> None:
    record(database)
    said = weir("simulate", "--recorded", "2h", "--plots", "none")  # the rate was set after these requests were made
    assert (said.code, "the recorded model `m` has no rate; try one with --rate m=INPUT/OUTPUT" in said.err) == (2, True)
