"""`weir serve`: what it decides before it runs, what it sets up in the books, and the process itself, started and stopped for real."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import BooksUnavailable, Invalid, NotFound
from billing.operations import keys, plans, rates, tenants
from billing.tenants import store
from billing.tenants.keys import KeyHasher
from gateway.cli.children import vllm_server, with_child, with_demo
from gateway.cli.failure import Failure
from gateway.cli.first_start import banner, first_keys, offer, plant, program, unrated
from gateway.cli.serve import listen, plan_run, prepare
from gateway.config import Settings, load_settings
from tests.clock import START_US, ManualClock
from tests.command import Weir, weir_in
from tests.desk import migrated

HASHER = KeyHasher(b"0123456789abcdef")


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    return weir_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "books.db").write_bytes(migrated())
    opened = Database(f"sqlite:///{tmp_path / 'books.db'}")
    yield opened
    opened.close()


def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "My Model_1.0"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_without_backends_the_embedded_model_and_the_demo_are_run(weir: Weir) -> None:
    run = plan_run(load_settings(None), None, [], "vllm")
    assert run.child is not None
    assert (run.child.name, run.child_provider, run.child_model, run.demo) == ("local", "local", "smollm2", True)
    assert (list(run.settings.seed.plans), list(run.settings.seed.rates)) == (["demo"], ["smollm2"])


def test_our_children_do_not_inherit_our_secrets(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_SECRET", "0123456789abcdef")
    monkeypatch.setenv("KEPT", "yes")
    run = plan_run(load_settings(None), None, [], "vllm")
    assert run.child is not None
    assert run.child.env is not None
    assert (run.child.env["KEPT"], "WEIR_SECRET" in run.child.env) == ("yes", False)


def test_configured_backends_need_no_child(weir: Weir) -> None:
    weir("init")
    run = plan_run(load_settings(Path("weir.yaml")), None, [], "vllm")
    assert (run.child, run.demo) == (None, False)


def test_vllm_is_started_over_a_directory_with_its_arguments_passed_on(weir: Weir, tmp_path: Path) -> None:
    child, name = vllm_server(model_dir(tmp_path), ["--max-model-len", "4096"], sys.executable)
    assert name == "my-model_1.0"
    assert child.command[:3] == (sys.executable, "serve", str(tmp_path / "My Model_1.0"))
    assert child.command[-2:] == ("--max-model-len", "4096")
    assert vllm_server(tmp_path / "My Model_1.0", ["--served-model-name=mine"], sys.executable)[1] == "mine"


def test_vllm_beside_a_configuration_adds_a_backend_and_leaves_the_books_alone(weir: Weir, tmp_path: Path) -> None:
    weir("init")
    run = plan_run(load_settings(Path("weir.yaml")), model_dir(tmp_path), [], sys.executable)
    assert (run.demo, "demo" in run.settings.seed.plans) == (False, False)
    settings = with_child(run.settings, "vllm", "vllm", "http://127.0.0.1:9/v1", run.child_model)
    assert set(settings.models) == {"echo", "my-model_1.0"}
    assert settings.models["my-model_1.0"].routes[0].backend == "vllm"
    assert settings.backends["vllm"].urls[0].url == "http://127.0.0.1:9/v1"


def test_a_directory_without_a_model_and_a_program_that_is_not_there_are_refused(weir: Weir, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no model here"):
        vllm_server(tmp_path, [], sys.executable)
    with pytest.raises(Invalid, match="there is no program `no-such-vllm`"):
        vllm_server(model_dir(tmp_path), [], "no-such-vllm")
    assert weir("serve", "--", "--max-model-len", "1").code == 2


def test_an_address_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Failure, match="choose another with --host and --port"), listen("127.0.0.1", taken.getsockname()[1]):
            pass


def test_seeds_are_planted_once_and_change_nothing_that_is_there(weir: Weir, database: Database) -> None:
    seed = with_demo(load_settings(None), "m").seed
    plant(database, seed, START_US)
    rates.set_rate(database, model="m", prices={"input": 1, "output": 1}, now_us=START_US + 1)
    plant(database, seed, START_US + 2)
    assert [version.version for version in plans.list_plans(database, all_versions=True)] == [1]
    assert [tenant.id for tenant in tenants.list_tenants(database)] == ["demo"]
    assert len(rates.list_rates(database)) == 2
    assert unrated(database, {"m": None, "other": None}, START_US) == ["other"]


def test_a_seed_that_the_books_refuse_stops_the_start(weir: Weir, database: Database) -> None:
    Path("weir.yaml").write_text("seed: {tenants: {acme: {plan: none}}}\n")
    with pytest.raises(NotFound, match="there is no plan `none`"):
        plant(database, load_settings(Path("weir.yaml")).seed, START_US)


def test_first_keys_are_issued_once(weir: Weir, database: Database) -> None:
    plant(database, with_demo(load_settings(None), "m").seed, START_US)
    secrets = first_keys(database, HASHER, "demo", START_US)
    assert set(secrets) == {"admin", "tenant"}
    assert first_keys(database, HASHER, "demo", START_US) == {}
    assert len(keys.list_keys(database)) == 2


def test_a_start_reads_no_list_of_tenants_or_keys_as_there_may_be_a_million(weir: Weir, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = with_demo(load_settings(None), "m").seed
    plant(database, seed, START_US)
    first_keys(database, HASHER, "demo", START_US)
    for name in ("all_keys", "all_tenants"):
        monkeypatch.delattr(store, name)
    plant(database, seed, START_US)
    assert first_keys(database, HASHER, "demo", START_US) == {}


def test_of_many_models_a_start_names_the_first(weir: Weir) -> None:
    said = offer(None, [f"m{number}" for number in range(1000)])
    assert "m19 and 980 more" in said and "m20" not in said
    assert offer(None, ["m0", "m1"]).endswith("Models: m0, m1")


def test_the_lines_to_paste_are_valid(weir: Weir) -> None:
    text = banner("http://127.0.0.1:8080", "m", {"admin": "sk-weir-admin-a", "tenant": "sk-weir-t"})
    body = re.search(r"-d '(.*)'", text)
    assert body is not None
    assert json.loads(body[1])["model"] == "m"
    compile(text[text.index("from openai") :], "pasted", "exec")
    assert "weir key issue" in banner("http://127.0.0.1:8080", "m", {})


def test_a_later_start_leaves_lines_to_paste_too(weir: Weir) -> None:
    text = banner("http://127.0.0.1:8080", "m", {}, tenant="demo", program=".venv/bin/weir")
    assert "export WEIR_API_KEY=$(.venv/bin/weir key issue demo --name again --quiet)" in text
    assert '-H "Authorization: Bearer $WEIR_API_KEY"' in text
    compile(text[text.index("from os import") :], "pasted", "exec")


def test_the_program_is_named_so_that_a_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "venv" / "bin" / "weir"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "serve"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == "venv/bin/weir"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "weir"


def test_a_start_says_what_it_read_and_what_it_offers() -> None:
    assert offer(Path("weir.yaml"), ["a", "b"]) == "Configuration: weir.yaml\nModels: a, b"
    assert offer(None, [], "smollm2") == "Configuration: none: its own small model\nModels: smollm2"


def kept_in(url: str) -> Settings:
    Path("weir.yaml").write_text(f"secret: 0123456789abcdef\ndatabase: {{url: '{url}'}}\n")
    return load_settings(Path("weir.yaml"))


class LateClock(ManualClock):
    """Moves on by a second with each reading."""

    def monotonic_s(self) -> float:
        self.advance(1)
        return super().monotonic_s()


async def test_a_database_that_is_away_is_waited_for_and_then_named_without_its_password(
    weir: Weir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        settings = kept_in(f"postgresql://weir:hidden@127.0.0.1:{port}/books")
        monkeypatch.setattr("gateway.cli.serve.DATABASE_EVERY_S", 0.001)
        with pytest.raises(Failure) as raised:
            await prepare(settings, LateClock())
    assert "database.url is postgresql" in str(raised.value) and "weir doctor" in str(raised.value)
    waited = [record.getMessage() for record in caplog.records if "trying for 30 s" in record.getMessage()]
    assert len(waited) == 1
    assert "hidden" not in str(raised.value) + waited[0]


async def test_a_database_that_comes_up_late_is_used(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[bool] = []

    def open_late(*_: object) -> None:
        tries.append(True)
        if len(tries) < 3:
            raise BooksUnavailable("the database cannot be used now: it is starting up")

    monkeypatch.setattr("gateway.cli.serve.DATABASE_EVERY_S", 0.001)
    monkeypatch.setattr("gateway.cli.serve._open_books", open_late)
    await prepare(kept_in("postgresql://weir@127.0.0.1/books"), ManualClock())
    assert len(tries) == 3


class Served:
    """A `weir serve` process with the echo backend; `banner` is what it printed when it listened."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "serve", "--config", "weir.yaml", "--port", "0"],
            cwd=folder,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", self.said)) is None:
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        self.url = found[0]

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        assert self.process.stdout is not None
        with self.process.stdout as out:
            return self.said + out.read()  # with what `readline` left in its buffer, too


@pytest.mark.slow
def test_served_for_real_keys_are_printed_at_the_first_start_only_and_sigterm_ends_it_well(weir: Weir, tmp_path: Path) -> None:
    weir("init")
    first = Served(tmp_path)
    with urllib.request.urlopen(f"{first.url}/health", timeout=10) as answer:
        assert answer.status == 200
    said = first.stop()
    assert first.process.returncode == 0
    (secret,) = re.findall(r"sk-weir-admin-\S+", said)
    second = Served(tmp_path)
    request = urllib.request.Request(f"{second.url}/admin/plans", headers={"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert [plan["id"] for plan in json.load(answer)] == ["starter"]
    said = second.stop()
    assert (second.process.returncode, "sk-weir-" in said, " key issue" in said) == (0, False, True)
