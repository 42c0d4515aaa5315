"""The configuration: its layers, its references to the environment, and what a mistake is told."""

import re
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import gateway.config
from gateway.config import ConfigError, Settings, config_path, load_settings, pepper, unknown_names
from gateway.config.source import read_file

BACKEND = "backends:\n  here:\n    urls: http://127.0.0.1:8000/v1\n"


@pytest.fixture(autouse=True)
def _no_weir_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("WEIR_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "weir.yaml"
    path.write_text(text)
    return path


def refusal(path: Path | None, overrides: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, overrides)
    return str(caught.value)


def test_defaults_need_no_file_and_keep_everything_in_the_data_directory() -> None:
    settings = load_settings(None)
    assert (settings.server.host, settings.server.port, settings.server.body_bytes_max) == ("127.0.0.1", 8080, 20 * 2**20)
    assert settings.database_url == "sqlite:///weir-data/weir.db"
    assert settings.embedded


def test_each_layer_beats_the_one_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "server: {host: 0.0.0.0, port: 1001, keep_alive_s: 5}\n")
    monkeypatch.setenv("WEIR_SERVER__PORT", "1002")
    assert load_settings(path).server.port == 1002
    server = load_settings(path, {"server": {"port": 1003}}).server
    assert (server.host, server.port, server.keep_alive_s) == ("0.0.0.0", 1003, 5)


def test_the_environment_sets_one_key_of_a_backend_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_BACKENDS__HERE__API_KEY", "sk-upstream")
    backend = load_settings(write(tmp_path, BACKEND)).backends["here"]
    assert backend.api_key is not None and backend.api_key.get_secret_value() == "sk-upstream"
    assert backend.urls[0].url == "http://127.0.0.1:8000/v1"


def test_references_are_filled_in_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE_PORT", "9009")
    path = write(tmp_path, "server:\n  port: ${HERE_PORT}\n  host: ${HERE_HOST:-::1}\ndata_dir: a$${b}\n")
    settings = load_settings(path)
    assert (settings.server.port, settings.server.host, str(settings.data_dir)) == (9009, "::1", "a${b}")


def test_a_missing_variable_stops_with_file_line_and_name(tmp_path: Path) -> None:
    path = write(tmp_path, "server:\n  port: 1\nsecret: ${NOT_SET_ANYWHERE}\n")
    assert refusal(path).startswith(f"{path}:3: the environment variable NOT_SET_ANYWHERE is not set")


@pytest.mark.parametrize("text", ["${", "${A", "${A B}", "${}"])
def test_a_broken_reference_is_an_error_and_not_text(tmp_path: Path, text: str) -> None:
    assert ":1: `${" in refusal(write(tmp_path, f'data_dir: "{text}"\n'))


def test_an_unknown_key_is_refused_with_its_line_and_what_was_meant(tmp_path: Path) -> None:
    path = write(tmp_path, "server:\n  host: a\n  prot: 1\n")
    assert refusal(path) == f"{path}:3: unknown key `server.prot`; did you mean `port`?"


def test_an_unknown_key_inside_a_backend_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, BACKEND + "    timeouts:\n      conect_s: 1\n")
    assert refusal(path) == f"{path}:5: unknown key `backends.here.timeouts.conect_s`; did you mean `connect_s`?"


def test_an_unknown_nested_name_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_SERVER__PROT", "1")
    assert refusal(None) == "environment WEIR_SERVER__PROT: unknown key `server.prot`; did you mean `port`?"


def test_unknown_names_in_the_environment_are_listed_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_SERVRE__PORT", "1")
    monkeypatch.setenv("WEIR_SERVER__PORT", "1")
    monkeypatch.setenv("WEIR_CONFIG", "weir.yaml")
    assert unknown_names() == ["environment WEIR_SERVRE__PORT sets nothing; did you mean `WEIR_SERVER__PORT`?"]


def test_a_wrong_value_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "server:\n  port: eighty\n")
    assert refusal(path) == f"{path}:2: `server.port`: must be a whole number, not 'eighty'"
    assert refusal(path, {"server": {"port": 99999}}).startswith("flag: `server.port`: ")
    monkeypatch.setenv("WEIR_SERVER__PORT", "-1")
    assert refusal(None).startswith("environment WEIR_SERVER__PORT: `server.port`: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server: {port: 70000}", "`server.port`: must be 65535 or less, not 70000"),
        ("server: {port: [1]}", "`server.port`: must be a whole number"),
        ("server: 8080", "`server`: must be names with values, not 8080"),
        ("server: {header_timeout_s: 0}", "`server.header_timeout_s`: must be more than 0.0, not 0"),
        ("log: {level: LOUD}", "`log.level`: must be one of DEBUG, INFO, WARNING, ERROR, not 'LOUD'"),
        ("seed: {plans: {Pro: {credits: '1'}}}", "`Pro` is not usable; 1 to 63 characters of a-z, 0-9 and -, the first a letter or a digit"),
        ("seed: {plans: {pro: {}}}", "`seed.plans.pro.credits`: is missing"),
        ("seed: {plans: {pro: {credits: -1}}}", "`seed.plans.pro.credits`: -1 must be 0 or more"),
        ("seed: {plans: {pro: {credits: 1, monthly_fee: '1.001'}}}", "`seed.plans.pro.monthly_fee`: `1.001` has more decimals than USD has (2)"),
        ("database: {url: 'mysql://u:p4ss@h/y'}", "`database.url`: `mysql` is not supported; use sqlite:/// or postgresql://"),
        ("database: {url: weir.db}", "`database.url`: this is not a database URL; write sqlite:///weir.db or postgresql://user@host/name"),
        ("leases: {credits_max: -5}", "`leases.credits_max`: -5 must be more than 0"),
        ("leases: {credits_max: .nan}", "`leases.credits_max`: `.nan` is not a number; write it like 12.5"),
        ("leases: {credits_max: nan}", "`leases.credits_max`: `nan` is not an amount; write it like 12.5"),
        ("leases: {credits_max: " + "9" * 50 + "}", "`leases.credits_max`: `" + "9" * 40 + "` has too many digits; an amount has at most 30"),
        ("leases: {credits_max: 99999999999}", "`leases.credits_max`: `99999999999` is too large; at most 9223372036 credits"),
        ("backends: {here: {urls: [], slots: many}}", "`backends.here.slots`: must be a whole number between 1 and 100000, or auto, not `many`"),
        ("backends: {here: {provider: echo, priority_scheduling: perhaps}}", "`backends.here.priority_scheduling`: must be true or false, not 'perhaps'"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(tmp_path: Path, text: str, told: str) -> None:
    said = refusal(write(tmp_path, text + "\n"))
    assert told in said
    assert "nput should" not in said


def test_credits_set_aside_may_be_written_without_quotes(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "leases: {credits_max: 5}\n")).leases.credits_max == "5"
    assert load_settings(write(tmp_path, "leases: {credits_max: 0.5}\n")).leases.credits_max == "0.5"


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    assert len(refusal(write(tmp_path, "server: {prot: 1, port: x}\nlog: {level: LOUD}\n")).splitlines()) == 3


def test_a_secret_is_never_repeated_in_an_error(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(write(tmp_path, "secret: hunter2\n"))


def test_a_model_whose_backend_is_missing_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, BACKEND + "models:\n  m:\n    routes: [{backend: there, model: m}]\n")
    assert refusal(path) == f"{path}:6: `models.m.routes.0.backend`: there is no backend `there` (backends: `here`)"


def test_a_rate_keeps_its_digits(tmp_path: Path) -> None:
    path = write(tmp_path, "seed:\n  rates:\n    m: {input: 0.10, output: 3}\n")
    rate = load_settings(path).seed.rates["m"]
    assert (rate.input, rate.output) == ("0.10", "3")


@pytest.mark.parametrize(
    "text, part",
    [
        ("a: [", ":1: is not valid YAML"),
        ("- 1\n", ":1: must hold settings"),
        ("server: {}\nserver: {}\n", ":2: `server` is there twice"),
        ("a: \x00", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, part: str) -> None:
    assert part in refusal(write(tmp_path, text))


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "# nothing\n")).server.port == 8080


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.yaml")


def test_the_file_is_the_one_given_then_the_one_named_then_the_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_path(None) is None
    write(tmp_path, "")
    assert config_path(None) == Path("weir.yaml")
    monkeypatch.setenv("WEIR_CONFIG", "other.yaml")
    assert config_path(None) == Path("other.yaml")
    assert config_path(Path("third.yaml")) == Path("third.yaml")


def test_a_secret_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    settings = load_settings(None, {"data_dir": tmp_path / "data"})
    first = pepper(settings)
    assert pepper(settings) == first and len(first) == 32
    assert (tmp_path / "data" / "secret").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["secret"]


def test_a_shared_database_needs_its_secret_given(tmp_path: Path) -> None:
    shared = {"data_dir": tmp_path, "database": {"url": "postgresql://weir@host/weir"}}
    with pytest.raises(ConfigError, match="set WEIR_SECRET"):
        pepper(load_settings(None, shared))
    assert pepper(load_settings(None, {**shared, "secret": "0123456789abcdef"}))


def test_a_damaged_secret_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("")
    with pytest.raises(ConfigError, match="too short"):
        pepper(load_settings(None, {"data_dir": tmp_path}))


@pytest.mark.parametrize(
    "url", ["http://h", "redis://", "redis://:p4ss#word@h:6379", "redis://:p4ss/word@h:6379/0", "redis://:p4ssword@h?db=x", "rediss://h?unknown=1"]
)
def test_a_redis_url_that_is_none_is_refused_without_showing_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"weir.yaml:\d+: `limits.redis_url`: must be like redis://USER:PASSWORD@HOST:6379/0") as refused:
        load_settings(write(tmp_path, f"limits: {{redis_url: '{url}'}}\n"))
    assert "p4ss" not in str(refused.value)


def test_a_redis_url_without_its_extra_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)
    with pytest.raises(ConfigError, match=r"redis_url`: needs the extra `redis`; install it with: pip install 'weir-gateway\[redis\]'"):
        load_settings(write(tmp_path, "limits: {redis_url: 'redis://h:6379/0'}\n"))
    for url in ("http://h", "redis://h:99999/0", "redis://:p4ss/word@h", "redis://h:0", "unix://"):
        assert "must be like redis://USER" in refusal(write(tmp_path, f"limits: {{redis_url: '{url}'}}\n")), "which needs no extra to be seen"


def template(uncommented: bool) -> str:
    text = (Path(gateway.config.__file__).parent / "template.yaml").read_text()
    return re.sub(r"^(\s*)#(?=[\w ]*[\w-]+:|  )", r"\1", text, flags=re.MULTILINE) if uncommented else text


def keys_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys_of(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_template_loads_as_it_is(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, template(False)))
    assert list(settings.models) == ["echo"] and settings.seed.rates["echo"].output == "1.5"


def test_every_key_of_the_template_is_real_and_every_setting_is_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, template(True))
    load_settings(path)
    written = {".".join(str(part) for part in place) for place in read_file(path, {}).lines}
    assert keys_of(Settings) <= written


def test_the_template_shows_the_defaults(tmp_path: Path) -> None:
    settings, plain = load_settings(write(tmp_path, template(True))), load_settings(None)
    assert (settings.server, settings.lanes, settings.books, settings.limits, settings.log) == (plain.server, plain.lanes, plain.books, plain.limits, plain.log)
