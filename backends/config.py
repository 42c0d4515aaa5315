"""What an operator may say about backends and models, checked as it is read.

The shape of `backends:` and `models:` in weir.yaml. Unknown keys are errors, so that a misspelt limit is not silently the default.
Nothing here opens, reads or resolves anything: whoever loads the file hands plain data to these types.
"""

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StringConstraints, field_validator, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
SLOTS_MAX = 100_000


def _slots(value: object) -> object:
    """Say in one sentence what is wrong, where a union of types would say it once for each."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number != "auto" and (type(number) is not int or not 1 <= number <= SLOTS_MAX):
        raise ValueError(f"must be a whole number between 1 and {SLOTS_MAX}, or auto, not `{value}`")
    return number


LOAD_PROVIDERS = frozenset({"vllm"})  # those whose servers say how loaded they are
PRIORITY_PROVIDERS = frozenset({"vllm"})  # those whose servers know priorities
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeoutsConfig(Strict):
    """Limits in seconds; `total_s` is of the whole exchange, null for none.

    An answer that is not streamed has no byte before it is whole, so its head may take `whole_s`, not `first_byte_s`; and so may all of it.
    """

    connect_s: Seconds = 5.0
    first_byte_s: Seconds = 120.0
    whole_s: Seconds = 600.0
    idle_s: Seconds = 60.0
    total_s: Seconds | None = 3600.0


class EchoConfig(Strict):
    """How slow the echo is, in milliseconds: before its first token, and between two."""

    first_token_ms: int = Field(default=0, ge=0, le=600_000)
    token_ms: int = Field(default=0, ge=0, le=60_000)


class ReplicaConfig(Strict):
    """One server of a backend: its base URL (such as http://127.0.0.1:8000/v1), and its share where the picker weighs."""

    url: str
    weight: int = Field(default=1, ge=1, le=1000)

    @field_validator("url")
    @classmethod
    def _is_a_base_url(cls, url: str) -> str:
        return check_base_url(url)


class BackendConfig(Strict):
    """One backend: replicas that are the same to a client, and how to speak to them.

    `slots` is how many requests it is given at once, by all processes together; `auto`: as many as its engines are seen to run at once (`load.py`).
    `priority_scheduling` (vLLM only): whether a request's priority is sent. Each server is tried at start, and one that refuses priorities gets none.
    Left out: sent where they are taken; some versions take and ignore them unless run with `--scheduling-policy priority` (seen: 0.32).
    """

    provider: Name = "openai_compatible"
    vendor: Name | None = None
    urls: tuple[ReplicaConfig, ...] = ()
    api_key: SecretStr | None = None
    slots: Annotated[int | Literal["auto"], BeforeValidator(_slots)] = 64
    picker: Name = "least_loaded"
    priority_scheduling: bool | None = None
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    transport: Literal["direct", "httpx"] = "direct"
    timeouts: TimeoutsConfig = TimeoutsConfig()
    probe_every_s: Seconds | None = None
    echo: EchoConfig = EchoConfig()

    @field_validator("provider")
    @classmethod
    def _is_a_provider(cls, name: str) -> str:
        if name not in provider_names():
            close = get_close_matches(name, provider_names(), n=1)
            raise ValueError(f"unknown provider `{name}`;{f' did you mean `{close[0]}`?' if close else ''} one of {', '.join(provider_names())}")
        return name

    @field_validator("urls", mode="before")
    @classmethod
    def _plain_urls(cls, urls: object) -> object:
        if isinstance(urls, str):
            urls = [urls]
        if isinstance(urls, list | tuple):
            return tuple({"url": item} if isinstance(item, str) else item for item in urls)
        return urls

    @model_validator(mode="after")
    def _has_somewhere_to_go(self) -> Self:
        if self.provider == "echo":
            if self.urls:
                raise ValueError("the echo answers in this process: it has no urls")
        elif not self.urls and self.vendor is None:
            raise ValueError("give `urls` (such as http://127.0.0.1:8000/v1), or a `vendor` whose address is known")
        if self.slots == "auto" and self.provider not in LOAD_PROVIDERS:
            raise ValueError(f"`slots: auto` is learned from an engine's metrics, which {self.provider} has none of: give a number, or `provider: vllm`")
        if self.priority_scheduling and self.provider not in PRIORITY_PROVIDERS:
            raise ValueError(f"`priority_scheduling: true` is for an engine that takes priorities, and {self.provider} sends none: leave it out")
        if len({replica.url for replica in self.urls}) != len(self.urls):
            raise ValueError("the same url twice in `urls`: use `weight`")
        return self


class ModelRoute(Strict):
    """A backend, and what the model is called there."""

    backend: Name
    model: str = Field(min_length=1, max_length=256)


class ModelConfig(Strict):
    """One public model: where its requests may go, in the order in which they are tried.

    `context_tokens` left out: what the server says of itself, if it does. `output_tokens_max` is the answer's length held for when the client names none.
    """

    routes: tuple[ModelRoute, ...] = Field(min_length=1, max_length=16)
    context_tokens: int | None = Field(default=None, ge=1)
    output_tokens_max: int = Field(default=4096, ge=1)


@cache
def provider_names() -> tuple[str, ...]:
    """List the dialects there are: each is a file in `providers/`, whose code is not wanted here."""
    return tuple(sorted(module.name for module in iter_modules([str(Path(__file__).with_name("providers"))])))


def check_base_url(url: str) -> str:
    """Return a base URL without its last slash. Raises `ValueError`, saying what a base URL may hold."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"`{url}` is no base URL: http:// or https://, a host, and the path before /chat/completions")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a base URL holds no user, password, query or fragment: the key belongs in `api_key`")
    _ = parts.port  # raises ValueError for a port that is no port
    if any(ord(character) <= 32 or ord(character) > 126 for character in url):
        raise ValueError(f"`{url!r}` holds a character that no URL holds")
    return url.rstrip("/")
