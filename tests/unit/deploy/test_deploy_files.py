"""What `deploy/` ships fits together and fits the code: configuration that loads, variables that are asked for, images that are pinned."""

import re
from pathlib import Path
from typing import Any

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
