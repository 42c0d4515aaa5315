"""What a request shows of who makes it: a key, a token of the identity provider, or a browser's session. The first that is there counts, right or wrong."""

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.auth.identity import CHALLENGE, Identity, is_key, of_key
from gateway.auth.sign_in import SignIn

_bearer = HTTPBearer(
    auto_error=False,
    description="For /admin and /finance `weir key issue --admin --name NAME`, for /tenant `weir key issue TENANT --role manager`; or a token of the provider",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def signed_in(request: Request, credentials: Credentials) -> Identity | None:
    """Return who a token or a session says; None where neither is there. Raises 401, 403 and `Unavailable` as `SignIn` does."""
    sign_in: SignIn | None = request.app.state.services.sign_in
    if sign_in is None:
        return None
    if credentials is None:
        return sign_in.by_cookie(request)
    return None if is_key(credentials.credentials) else await sign_in.by_token(credentials.credentials)


Signed = Annotated[Identity | None, Depends(signed_in)]


def bearer(parts: Any, credentials: HTTPAuthorizationCredentials | None, wanted: str) -> Identity:
    """Return who a key stands for. Raises 401: without one, saying what is wanted, and for one that is not valid."""
    if credentials is None:
        raise HTTPException(401, wanted, CHALLENGE)
    return of_key(parts.database, parts.hasher, credentials.credentials, parts.clock.now_us())
