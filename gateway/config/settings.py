"""Every setting, its default and its meaning. Units stand last in names; secrets are `SecretStr`; amounts are text, never floats.

Tenants, plans, rates and keys live in the database; `seed` creates those that are missing when the gateway starts, and changes none.
"""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from backends.config import BackendConfig, ModelConfig
from backends.config import Name as BackendName
from billing.db import check_url
from gateway.config.forms import PlanForm, PositiveCredits, PublicName, Slug, TenantForm, checked_by
from gateway.config.oidc import OidcSettings
from gateway.config.prices import RateForm

REDIS_FORM = "must be like redis://USER:PASSWORD@HOST:6379/0 (rediss:// for TLS), with a password's special characters percent-encoded"
NO_BACKEND = "no_backend"  # a mistake between two places; its context names the one to mend


class Section(BaseModel):
    """A part of the settings: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """Where the gateway listens, and what it takes from a client."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=256, description="processes that share the port and every backend's slots; one uses one core")
    body_bytes_max: int = Field(20 * 2**20, ge=1024, description="a larger request body is refused with 413")
    header_timeout_s: float = Field(10.0, gt=0, description="a client that takes longer to send its request's head is disconnected")
    body_timeout_s: float = Field(30.0, gt=0, description="a client that has not sent its body by then gets 408")
    write_timeout_s: float = Field(60.0, gt=0, description="a client that takes nothing of its answer for this long is disconnected")
    keep_alive_s: int = Field(75, ge=1, description="an idle connection is closed after this")
    shutdown_grace_s: int = Field(30, ge=0, description="how long requests under way may go on after SIGTERM")


class DatabaseSettings(Section):
    """Where the books are kept."""

    url: SecretStr | None = Field(None, description="sqlite:///FILE or postgresql://USER@HOST/NAME; default: weir.db in the data directory")
    pool_max: int = Field(15, ge=5, le=1000, description="connections that one process opens to PostgreSQL at most; 2 are for usage and leases alone")

    @field_validator("url")
    @classmethod
    def _books_can_be_kept(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and url.get_secret_value():
            checked_by(check_url)(url.get_secret_value())
        return url


class LaneSettings(Section):
    """How many requests may wait in a lane, and how long."""

    depth_max: int = Field(1024, ge=0, description="a request that finds this many waiting gets 429")
    wait_ms_max: int = Field(30_000, ge=0, description="a request that waited this long gets 429")
    age_ms_max: int = Field(30_000, ge=0, description="a tenant that has gone without a slot for this long is next in its lane, whatever its weight")


class LanesSettings(Section):
    """The queue in front of every backend."""

    fast: LaneSettings = LaneSettings(age_ms_max=10_000)
    slow: LaneSettings = LaneSettings(depth_max=512, wait_ms_max=120_000, age_ms_max=60_000)
    comment_every_s: float = Field(15.0, ge=1, description="a stream that waits gets a comment this often, so that nothing on its way takes it for dead")


class BooksSettings(Section):
    """How usage reaches the database."""

    flush_ms: int = Field(50, ge=1, le=10_000, description="usage waits this long for the database, or up to 0.5 s where writing takes a twentieth of the time")
    flush_events_max: int = Field(5000, ge=1, le=100_000, description="at most so many usage events in one transaction; a backlog makes them this large")
    backlog_max: int = Field(200_000, ge=1, description="past so many unwritten events new work is refused with 503")
    journal_bytes_max: int = Field(2**30, ge=2**20, description="past this size of the journal new work is refused with 503")
    durability: Literal["process", "disk"] = Field(
        "process",
        description="what an answered request's charge survives: process, a killed gateway; disk, also a power cut (each answer's end waits for a sync)",
    )


class LeasesSettings(Section):
    """How processes share a tenant's credits."""

    term_s: float = Field(30.0, gt=0, description="a process that has not been heard of for this long has lost what it had set aside")
    beat_s: float = Field(2.0, gt=0, description="how often a process says that it lives and what slots it needs, and hears it of the others")
    credits_max: PositiveCredits = Field(
        "100000", description="at most so many credits of a tenant are set aside for one process beforehand: what its crash strands"
    )

    @model_validator(mode="after")
    def _beats_in_time(self) -> "LeasesSettings":
        if self.beat_s * 2 > self.term_s:
            raise ValueError("leases.beat_s must be at most half of leases.term_s, or one late beat would end every lease")
        return self


class LimitsSettings(Section):
    """A limit on everything that a process keeps in memory."""

    tenants_cached_max: int = Field(100_000, ge=1, description="credit accounts kept in memory")
    changes_poll_ms: int = Field(250, ge=10, le=10_000, description="an admin's change made by another process is noticed within this")
    redis_url: SecretStr | None = Field(None, description="a Redis or Valkey in which all processes share the rate windows; default: each applies its share")
    redis_wait_ms: int = Field(50, ge=1, le=1000, description="a Redis slower than this is left aside until it is faster; leave room for two round trips")
    redis_prefix: str = Field("weir", pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="what the keys in Redis begin with: another one for each installation")

    @field_validator("redis_url")
    @classmethod
    def _redis_can_be_used(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _check_redis(url.get_secret_value())
        return url


def _check_redis(url: str) -> None:
    """Say what is wrong without the URL itself, which may hold a password. Raises `ValueError`."""
    if not _names_a_redis(url):
        raise ValueError(REDIS_FORM)
    try:
        from redis.asyncio.connection import ConnectionPool  # here: its package comes with an extra
    except ImportError:
        raise ValueError("needs the extra `redis`; install it with: pip install 'weir-gateway[redis]'") from None
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]  # opens nothing yet
    except (ValueError, TypeError):
        raise ValueError(REDIS_FORM) from None


def _names_a_redis(url: str) -> bool:
    """Tell whether scheme, host and port can be right: what needs no extra to be known."""
    try:
        parts = urlsplit(url)
        port = parts.port  # one that is no number is often a password with a character that must be encoded
    except ValueError:
        return False
    return bool(parts.path) if parts.scheme == "unix" else parts.scheme in ("redis", "rediss") and parts.hostname is not None and port != 0


class WebhookSettings(Section):
    """How webhooks are sent."""

    allow_http: bool = Field(False, description="also take http:// endpoints on other machines, where anybody on the way can read and change what is sent")
    timeout_s: float = Field(10.0, gt=0, le=60, description="an endpoint that has not answered by then is tried again later")
    stripe_key: SecretStr | None = Field(None, description="the restricted or secret key for destinations of kind stripe; it stands in no database")
    stripe_url: str = Field("https://api.stripe.com", description="where the key of Stripe may be sent, and nowhere else")
    openmeter_key: SecretStr | None = Field(None, description="the token for destinations of kind openmeter, where they ask for one")
    openmeter_url: str = Field("https://openmeter.cloud", description="where the token of OpenMeter may be sent, and nowhere else: scheme, host and port")
    at_once_max: int = Field(32, ge=1, le=1000, description="messages under way at the same time from one process, at most 4 to one endpoint")


class LogSettings(Section):
    """The log, on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"


class SeedSettings(Section):
    """What to create at start where it is missing."""

    plans: dict[Slug, PlanForm] = {}
    tenants: dict[Slug, TenantForm] = {}
    rates: dict[PublicName, RateForm] = {}


class Settings(BaseSettings):
    """All settings of one process. `load_settings` builds it."""

    model_config = SettingsConfigDict(env_prefix="WEIR_", env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True, validate_default=False)

    server: ServerSettings = ServerSettings()
    data_dir: Path = Field(Path("weir-data"), description="the journal, the default database and the generated secret live here")
    database: DatabaseSettings = DatabaseSettings()
    secret: SecretStr | None = Field(None, min_length=16, description="pepper of the stored key digests; generated in the data directory where SQLite is used")
    backends: dict[BackendName, BackendConfig] = {}
    models: dict[PublicName, ModelConfig] = {}
    lanes: LanesSettings = LanesSettings()
    books: BooksSettings = BooksSettings()
    leases: LeasesSettings = LeasesSettings()
    limits: LimitsSettings = LimitsSettings()
    webhooks: WebhookSettings = WebhookSettings()
    oidc: OidcSettings | None = None
    log: LogSettings = LogSettings()
    seed: SeedSettings = SeedSettings()

    @property
    def database_url(self) -> str:
        """The database's URL, with its password if it has one: never log it."""
        return self.database.url.get_secret_value() if self.database.url else f"sqlite:///{self.data_dir / 'weir.db'}"

    @property
    def embedded(self) -> bool:
        """Tell whether the books are a SQLite file, so that this machine alone uses them."""
        return self.database_url.startswith("sqlite")

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> "Settings":
        for model, config in self.models.items():
            for index, route in enumerate(config.routes):
                if route.backend not in self.backends:
                    known = ", ".join(f"`{name}`" for name in self.backends) or "none is configured"
                    text, place = f"there is no backend `{route.backend}` (backends: {known})", ("models", model, "routes", index, "backend")
                    raise PydanticCustomError(NO_BACKEND, "{text}", {"text": text, "place": place})
        return self
