"""The model servers that `weir serve` runs itself: the embedded small model, or vLLM over the operator's weights.

Their addresses are known once they run; the settings that come out name them as backends like any other.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from backends.config import BackendConfig, ModelConfig
from backends.supervisor import Child, local_child, vllm_child, without_secrets
from billing.errors import Invalid
from gateway.config import Settings, child_environment
from gateway.config.forms import PlanForm, TenantForm
from gateway.config.prices import RateForm

LOCAL_MODEL = "smollm2"
DEMO = "demo"
DEMO_PLAN = PlanForm(credits="1000", name="Demo", on_exhausted="slow")
DEMO_TENANT = TenantForm(plan=DEMO, name="Demo")
DEMO_RATE = RateForm(input="100", output="300")


def embedded_child() -> Child:
    """Describe the embedded default, in an environment without our secrets."""
    return msgspec.structs.replace(local_child(alias=LOCAL_MODEL), env=without_secrets(child_environment()))


def vllm_server(model_dir: Path, arguments: Sequence[str], executable: str) -> tuple[Child, str]:
    """Describe `vllm serve MODEL_DIR` and the name its model is served under. Raises `Invalid` when there is no model or no vLLM."""
    if not (model_dir / "config.json").is_file():
        raise Invalid("vllm", f"--vllm {model_dir}: there is no model here; name a directory with a config.json and weights")
    found = shutil.which(executable) or shutil.which(executable, path=str(Path(sys.executable).parent))
    if found is None:
        raise Invalid("vllm", f"--vllm: there is no program `{executable}`; install it with: pip install 'weir-gateway[vllm]', or name it with --vllm-bin")
    given = _option(arguments, "--served-model-name")
    name = given or re.sub(r"[^a-z0-9_.-]+", "-", model_dir.resolve().name.lower()).strip("-") or "model"
    return vllm_child(model_dir, served_name=name, environ=child_environment(), arguments=arguments, executable=found), name


def with_child(settings: Settings, name: str, provider: str, base_url: str, model: str) -> Settings:
    """Add a server that we run to the settings: as a backend, and as the model it serves unless that name is configured."""
    backend = BackendConfig(provider=provider, urls=(base_url,), slots=4 if provider == "local" else 64)
    models = {model: ModelConfig.model_validate({"routes": [{"backend": name, "model": model}]})} | settings.models
    return settings.model_copy(update={"backends": {**settings.backends, name: backend}, "models": models})


def with_demo(settings: Settings, model: str) -> Settings:
    """Add the demo's plan, tenant and rate to what is created at start where it is missing."""
    seed = settings.seed
    changes: dict[str, Any] = {
        "plans": {DEMO: DEMO_PLAN} | seed.plans,
        "tenants": {DEMO: DEMO_TENANT} | seed.tenants,
        "rates": {model: DEMO_RATE} | seed.rates,
    }
    return settings.model_copy(update={"seed": seed.model_copy(update=changes)})


def _option(arguments: Sequence[str], name: str) -> str | None:
    for index, argument in enumerate(arguments):
        if argument.startswith(name + "="):
            return argument.partition("=")[2]
        if argument == name and index + 1 < len(arguments):
            return arguments[index + 1]
    return None
