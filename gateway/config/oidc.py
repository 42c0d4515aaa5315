"""The setting `oidc`: whose signed tokens open /admin, /finance and /tenant beside our own keys, and which role they give."""

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gateway.config.forms import Form, Slug


def _address(text: str) -> str:
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        whole = bool(host) and not parts.query and not parts.fragment and parts.username is None and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not text.isascii() or (parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host))):
        raise ValueError("must be like https://login.example.com (http:// for this machine alone), without query, fragment and password")
    return text


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, so that nobody is on the way to it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Address = Annotated[str, AfterValidator(_address)]
OperatorRole = Literal["owner", "admin", "finance", "viewer"]
TenantRole = Literal["manager", "member"]


class OidcSettings(Form):
    """An OpenID provider. Its discovery document is read at `issuer`/.well-known/openid-configuration."""

    issuer: Address = Field(description="exactly as its tokens have it in `iss`")
    client_id: str = Field(min_length=1, max_length=256, description="as which we are known there; tokens issued to another client are refused")
    client_secret: SecretStr | None = Field(None, description="for signing in with a browser; absent: a public client, which PKCE alone protects")
    audience: str | None = Field(None, min_length=1, max_length=512, description="what a token's `aud` must hold; default: the client_id")
    role_claim: str = Field("groups", min_length=1, max_length=256, description="the claim with groups or roles; a.b looks into objects")
    roles: dict[str, OperatorRole] = Field({}, description="value of that claim -> owner, admin, finance or viewer")
    tenant_claim: str | None = Field(None, min_length=1, max_length=256, description="the claim that says whose people somebody is of")
    tenants: dict[str, Slug] | None = Field(None, description="value of that claim -> tenant; absent: the value is the tenant's id")
    tenant_roles: dict[str, TenantRole] = Field({}, description="value of role_claim -> manager or member, of the tenant")
    algorithms: list[Literal["RS256", "ES256", "EdDSA", "Ed25519"]] = Field(["RS256", "ES256", "EdDSA", "Ed25519"], min_length=1)
    leeway_s: int = Field(30, ge=0, le=300, description="how far the provider's clock may be off ours")
    public_url: Address | None = Field(None, description="how browsers reach this gateway; absent: tokens alone, no /auth/login")
    scopes: list[Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,100}$")]] = Field(["openid", "email"], max_length=20)
    session_s: int = Field(28_800, ge=60, le=7 * 86_400, description="how long a browser stays signed in; a role taken away at the provider ends with it")

    @model_validator(mode="after")
    def _leads_somewhere(self) -> "OidcSettings":
        if not self.roles and not self.tenant_roles:
            raise ValueError('nobody would have a role: map values of role_claim, like roles: {"weir-admins": admin}')
        if bool(self.tenant_roles) != (self.tenant_claim is not None):
            raise ValueError("tenant_claim and tenant_roles go together: whose people, and what they may do")
        if self.public_url is not None and "openid" not in self.scopes:
            raise ValueError("scopes must hold openid, or no identity comes back")
        return self
