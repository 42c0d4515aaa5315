"""What `deploy/` ships fits together and fits the code: configuration that loads, variables that are asked for, images that are pinned."""

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from gateway.config import load_settings
from gateway.telemetry import names

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
SECRETS = {"WEIR_SECRET": "a-secret-for-the-test", "POSTGRES_PASSWORD": "p", "VLLM_API_KEY": "k"}


@pytest.fixture
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def test_the_example_configuration_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(DEPLOY / "weir.yaml")
    assert settings.database_url == "postgresql://weir:p@postgres/weir"
    assert set(settings.models) == set(settings.seed.rates), "a model without a rate is refused"
    assert {tenant.plan for tenant in settings.seed.tenants.values()} <= set(settings.seed.plans)


def test_compose_gives_the_configuration_every_variable_it_names(compose: dict[str, Any]) -> None:
    named = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "weir.yaml").read_text()))
    assert named <= set(compose["services"]["gateway"]["environment"])


def test_every_variable_of_compose_is_in_the_example_of_env() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    offered = set(re.findall(r"^#?([A-Z_]+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert asked == offered


def test_every_image_is_pinned(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    assert [image for image in images if not re.search(r":v?\d+(\.\d+)+", image)] == []


def test_no_service_may_fill_the_disk_with_its_log(compose: dict[str, Any]) -> None:
    assert {name for name, service in compose["services"].items() if not service.get("logging", {}).get("options", {}).get("max-size")} == set()


def test_only_the_gateway_is_published_to_the_network(compose: dict[str, Any]) -> None:
    published = {name: port for name, service in compose["services"].items() for port in service.get("ports", [])}
    assert {name for name, port in published.items() if not port.startswith("127.0.0.1:")} == {"gateway"}


def test_vllm_and_the_gateway_agree(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(DEPLOY / "weir.yaml")
    command = compose["services"]["vllm"]["command"]
    backend = settings.backends["vllm"]
    assert backend.priority_scheduling == ("--scheduling-policy=priority" in command)
    served = {part.partition("=")[2] for part in command if part.startswith("--served-model-name=")}
    assert served == {route.model for model in settings.models.values() for route in model.routes if route.backend == "vllm"}


def test_prometheus_scrapes_services_that_exist(compose: dict[str, Any]) -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in jobs for group in job["static_configs"] for target in group["targets"]]
    assert {target.partition(":")[0] for target in targets} <= set(compose["services"])


def test_alert_rules_lean_on_metrics_and_labels_that_exist() -> None:
    rules = [rule for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    series: dict[str, set[str]] = {}
    for name in vars(names).values():
        if isinstance(name, names.Name):
            for suffix in ("_bucket", "_sum", "_count") if name.buckets else ("",):
                series[name.name + suffix] = {*name.labels, "le"} if suffix == "_bucket" else set(name.labels)
    for rule in rules:
        used = re.findall(r"\b(weir_[a-z_]+)(?:\{([^}]*)\})?", rule["expr"])
        assert used or rule["expr"].startswith("up{"), rule["alert"]
        for metric, selector in used:
            assert metric in series, f"{rule['alert']}: there is no metric {metric}"
            assert set(re.findall(r"([a-z_]+)\s*[=!]", selector)) <= series[metric], rule["alert"]
        named = set(re.findall(r"\$labels\.([a-z_]+)", rule["annotations"]["summary"]))
        assert named <= {label for metric, _ in used for label in series[metric]}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "warn")


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_every_alert_rule_is_promql_and_no_name_is_given_twice() -> None:
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    assert len(rules()) == text.count("- alert:")
    for rule in rules().values():
        assert isinstance(promql_parser.parse(rule["expr"]), promql_parser.Expr)
    with pytest.raises(ValueError, match="invalid"):
        promql_parser.parse("increase(weir_ready[5m]) > ")  # it does read them


def test_an_alert_on_a_counter_also_sees_what_was_counted_before_the_first_scrape() -> None:
    steps = {name: rule["expr"] for name, rule in rules().items() if "increase(" in rule["expr"]}
    assert len(steps) >= 8
    for alert, expr in steps.items():
        found = re.match(r"increase\((?P<series>.+?)\[\w+\]\) > (?P<most>\d+)", expr)
        assert found is not None, alert
        series, most = found["series"], found["most"]
        tree, young = promql_parser.parse(expr), promql_parser.parse(f"({series} > {most} unless {series} offset 15m)")
        assert isinstance(tree, promql_parser.BinaryExpr) and str(tree.op) == "or", alert
        assert (str(tree.lhs), str(tree.rhs)) == (str(promql_parser.parse(found[0])), str(young)), alert


@pytest.mark.parametrize(
    ("watched", "how"),
    [
        ("weir_ledger_imbalance_ncr", "absent_over_time(weir_ledger_imbalance_ncr[1h])"),
        ("weir_jobs_age_seconds", "> 3600"),
        ("weir_clock_ahead_seconds", "abs("),
        ("weir_journal_bytes", "* weir_journal_bytes_max"),
        ("weir_rate_windows_shared", "== 0"),
        ("weir_settle_failures_total", "increase("),
        ("weir_webhooks_waiting", ">"),
        ("weir_lane_oldest_wait_seconds", '{lane="slow"}) > 60'),
    ],
)
def test_what_an_operator_must_hear_of_has_a_rule(watched: str, how: str) -> None:
    assert [rule["alert"] for rule in rules().values() if re.search(rf"\b{watched}\b", rule["expr"]) and how in rule["expr"]] != []


def test_prometheus_is_given_the_rules_that_it_reads(compose: dict[str, Any]) -> None:
    mounted = {volume.split(":")[0] for volume in compose["services"]["prometheus"]["volumes"]}
    read = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["rule_files"]
    assert {f"./prometheus/{name}" for name in (*read, "prometheus.yml")} <= mounted
    assert all((DEPLOY / "prometheus" / name).is_file() for name in read)


def test_the_image_is_built_from_what_the_build_context_holds() -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == kept
    assert all((ROOT / name).exists() for name in names)
