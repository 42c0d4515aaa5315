"""`weir init`, `check`, `doctor`, `migrate`, `backend`: setting up, and finding out what is wrong."""

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Weir, weir_in
from tests.real.upstream import ScriptedUpstream
from tests.real.valkey import Valkey


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    return weir_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens at, kept from others."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def backend(url: str) -> str:
    return f"backends: {{own: {{urls: {url}}}}}\nmodels: {{m: {{routes: [{{backend: own, model: m}}]}}}}\nseed: {{rates: {{m: {{free: true}}}}}}\n"


def test_init_writes_a_configuration_that_checks(weir: Weir) -> None:
    assert weir("init").out.startswith("wrote weir.yaml")
    assert weir("check").out == "weir.yaml: good. 1 backend, 1 model, database SQLite\n"
    again = weir("init")
    assert (again.code, "--force overwrites it" in again.err) == (2, True)
    assert weir("init", "--force").code == 0
    assert weir("init", "none/weir.yaml").code == 2


def test_check_names_every_mistake_with_its_place(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("weir.yaml").write_text("server:\n  prot: 1\nlog: {level: LOUD}\n")
    monkeypatch.setenv("WEIR_SERVRE__PORT", "1")
    said = weir("check")
    assert said.code == 2
    first, second, third = said.err.splitlines()
    assert first == "weir: weir.yaml:2: unknown key `server.prot`; did you mean `port`?"
    assert second.startswith("weir: weir.yaml:3: `log.level`: ")
    assert third == "weir: environment WEIR_SERVRE__PORT sets nothing; did you mean `WEIR_SERVER__PORT`?"


def test_check_refuses_a_database_that_doctor_refuses(weir: Weir) -> None:
    Path("weir.yaml").write_text("database: {url: 'mysql://user:p4ssword@x/y'}\n")
    said = weir("check")
    assert (said.code, said.out) == (2, "")
    assert said.err == "weir: weir.yaml:1: `database.url`: `mysql` is not supported; use sqlite:/// or postgresql://\n"
    assert "`mysql` is not supported" in weir("doctor").out


def test_check_notes_a_backend_without_a_model(weir: Weir) -> None:
    Path("weir.yaml").write_text("backends: {idle: {provider: echo}}\n")
    assert "no model is routed to idle" in weir("check").out


def test_doctor_is_content_with_a_fresh_installation(weir: Weir) -> None:
    said = weir("doctor")
    assert (said.code, [line for line in said.out.splitlines() if not line.startswith("good")]) == (0, [])


def test_doctor_says_what_to_do_about_a_database_that_is_not_migrated(weir: Weir, tmp_path: Path) -> None:
    (tmp_path / "weir-data" / "weir.db").unlink()
    said = weir("doctor")
    assert said.code == 1
    assert [line for line in said.out.splitlines() if line.startswith("wrong")] == [
        f"wrong  database: {tmp_path}/weir-data/weir.db is not there yet; run: weir migrate (or start: weir serve)"
    ]
    assert not (tmp_path / "weir-data" / "weir.db").exists()
    assert weir("migrate").code == 0
    assert weir("doctor").code == 0


def test_doctor_finds_a_backend_that_is_down_and_a_model_without_a_rate(weir: Weir, closed_port: int) -> None:
    text = backend(f"http://127.0.0.1:{closed_port}/v1").replace("seed: {rates: {m: {free: true}}}\n", "")
    Path("weir.yaml").write_text(text)
    said = weir("doctor")
    assert said.code == 1
    wrong = [line for line in said.out.splitlines() if line.startswith("wrong")]
    assert wrong[0] == f"wrong  backends: own at http://127.0.0.1:{closed_port}/v1: connection refused; start it, or correct its `urls` or `api_key`"
    assert wrong[1].startswith("wrong  rates: m: no rate, so requests are refused; set one: weir rate set m ")


def test_doctor_has_a_line_for_every_server(weir: Weir, scripted_upstream: ScriptedUpstream, closed_port: int) -> None:
    Path("weir.yaml").write_text(backend(f"[{scripted_upstream.base_url}, 'http://127.0.0.1:{closed_port}/v1', 'http://no-such-host.invalid/v1']"))
    lines = [line for line in weir("doctor").out.splitlines() if " backends: " in line]
    assert lines == [
        f"good   backends: own at {scripted_upstream.base_url}: up",
        f"wrong  backends: own at http://127.0.0.1:{closed_port}/v1: connection refused; start it, or correct its `urls` or `api_key`",
        "wrong  backends: own at http://no-such-host.invalid/v1: its host name is not known here; start it, or correct its `urls` or `api_key`",
    ]


def test_doctor_finds_a_lost_secret_and_a_clock_gone_back(weir: Weir, tmp_path: Path) -> None:
    weir("plan", "set", "pro", "--credits", "1")
    weir("tenant", "create", "acme", "--plan", "pro")
    weir("key", "issue", "acme")
    (tmp_path / "weir-data" / "secret").unlink()
    with sqlite3.connect(tmp_path / "weir-data" / "weir.db") as connection:
        connection.execute("UPDATE change SET at_us = at_us + 86400000000")
    connection.close()
    wrong = [line for line in weir("doctor").out.splitlines() if line.startswith("wrong")]
    assert wrong[0].startswith("wrong  secret: weir-data/secret is gone, and no key issued before works without it")
    assert wrong[1].startswith("wrong  clock: it says ")
    assert not (tmp_path / "weir-data" / "secret").exists()


def test_doctor_finds_a_disk_with_too_little_room(weir: Weir) -> None:
    Path("weir.yaml").write_text("books: {journal_bytes_max: 1000000000000000}\n")
    assert "less than the journal may grow to" in weir("doctor").out


def test_doctor_examines_what_several_workers_need(weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weir("init")
    assert "good   workers: 1 configured: one process, one core" in weir("doctor").out
    Path("weir.yaml").write_text(Path("weir.yaml").read_text().replace("  #workers: 1  ", "  workers: 100  "))
    monkeypatch.setenv("WEIR_BOOKS__JOURNAL_BYTES_MAX", str(2**20))
    said = weir("doctor")
    assert (said.code, "wrong  workers: echo: fewer `slots` than the 100 workers" in said.out) == (1, True), said.out
    monkeypatch.setenv("WEIR_SERVER__WORKERS", "2")
    assert "good   workers: 2 configured, each with a share of every backend's slots" in weir("doctor").out
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert "wrong  workers: no run directory can be made for the workers" in weir("doctor").out


def test_doctor_tries_the_redis_of_the_rate_windows(weir: Weir, valkey: Valkey) -> None:
    Path("weir.yaml").write_text(f"limits: {{redis_url: '{valkey.url}', redis_wait_ms: 1000}}\n")
    said = weir("doctor")
    assert said.code == 0 and "good   redis: answers in " in said.out
    valkey.kill()
    said = weir("doctor")
    assert said.code == 1
    (line,) = [line for line in said.out.splitlines() if line.startswith("wrong")]
    assert line.startswith("wrong  redis: ConnectionError") and line.endswith("start it, or correct limits.redis_url")


def test_doctor_finds_a_configuration_that_does_not_load(weir: Weir) -> None:
    Path("weir.yaml").write_text("server: {port: x}\n")
    said = weir("doctor")
    assert (said.code, said.out.startswith("wrong  configuration: weir.yaml:1: `server.port`")) == (1, True)


def test_doctor_says_once_that_the_database_is_away(weir: Weir, monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("WEIR_DATABASE__URL", f"postgresql://weir:hunter2@127.0.0.1:{closed_port}/weir?connect_timeout=1")
    monkeypatch.setenv("WEIR_SECRET", "0123456789abcdef")
    said = weir("doctor")
    wrong = [line for line in said.out.splitlines() if line.startswith("wrong")]
    assert (said.code, len(wrong), wrong[0].startswith("wrong  database: the database cannot be used now")) == (1, 1, True)
    assert "hunter2" not in said.out + said.err


def test_backends_are_listed_with_how_they_are(weir: Weir, scripted_upstream: ScriptedUpstream, closed_port: int) -> None:
    Path("weir.yaml").write_text(backend(f"[{scripted_upstream.base_url}, 'http://127.0.0.1:{closed_port}/v1']"))
    rows = weir("backend", "list", "--format", "csv").out.splitlines()
    assert rows[0] == "backend,provider,url,state,slots,weight,drained,models"
    assert rows[1].startswith(f"own,openai_compatible,{scripted_upstream.base_url},")
    assert f"http://127.0.0.1:{closed_port}/v1,down: connection refused," in rows[2]
    assert ",not asked," in weir("backend", "list", "--no-probe", "--format", "csv").out


def test_a_server_is_drained_restored_and_weighed(weir: Weir) -> None:
    Path("weir.yaml").write_text(backend("['http://127.0.0.1:1/v1', 'http://127.0.0.1:2/v1']"))

    def listed() -> list[list[str]]:
        rows = weir("backend", "list", "--no-probe", "--format", "csv").out.splitlines()[1:]
        return [row.split(",")[5:7] for row in rows]

    assert listed() == [["1", "no"], ["1", "no"]]
    assert weir("backend", "drain", "own").out.count("is drained") == 2
    assert weir("backend", "restore", "own", "http://127.0.0.1:2/v1").code == 0
    assert weir("backend", "weigh", "own", "http://127.0.0.1:2/v1", "9").code == 0
    assert listed() == [["1", "yes"], ["9", "no"]]
    assert weir("backend", "weigh", "own", "http://127.0.0.1:2/v1", "configured").code == 0
    assert listed() == [["1", "yes"], ["1", "no"]]
    for arguments, part in (
        (("drain", "nonesuch"), "there is no backend `nonesuch`"),
        (("drain", "own", "http://127.0.0.1:3/v1"), "one of http://127.0.0.1:1/v1, http://127.0.0.1:2/v1"),
        (("weigh", "own", "http://127.0.0.1:2/v1", "much"), "`much` is neither a number nor `configured`"),
        (("weigh", "own", "http://127.0.0.1:2/v1", "5000"), "1 to 1000"),
    ):
        said = weir("backend", *arguments)
        assert (said.code, part in said.err) == (2, True), said.err


def test_without_a_command_the_help_is_shown(weir: Weir) -> None:
    said = weir()
    assert "Usage: weir" in said.out + said.err
    assert weir("--version").out == "weir 0.1.0\n"
