"""/auth: a browser signs in at the identity provider, comes back with a session, and signs out. Only where `oidc` with a `public_url` is configured."""

from fastapi import HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from gateway.auth.sign_in import LEFT_S, SignIn
from gateway.wire.problems import problem_router

router = problem_router("/auth")


@router.get("/login", summary="Sign a browser in", response_class=RedirectResponse, status_code=302)
async def login(request: Request, next: str = "/") -> Response:
    """Send a browser to the identity provider; afterwards it goes to `next`, a path of this gateway."""
    sign_in = _open(request)
    departure = await sign_in.depart(next)
    answer = RedirectResponse(departure.url, 302)
    _keep(answer, sign_in, sign_in.departure_name, departure.cookie, LEFT_S)
    return answer


@router.get("/callback", summary="Take a browser back in", response_class=RedirectResponse, status_code=302)
async def callback(request: Request) -> Response:
    """End a sign-in that this browser began: its code becomes a session, kept in a cookie that no script can read."""
    sign_in = _open(request)
    arrival = await sign_in.arrive(request)
    answer = RedirectResponse(arrival.path, 302)
    _keep(answer, sign_in, sign_in.session_name, arrival.cookie, sign_in.settings.session_s)
    _keep(answer, sign_in, sign_in.departure_name, "", 0)
    return answer


@router.post("/logout", summary="Sign a browser out", status_code=204)
async def logout(request: Request) -> Response:
    """End this browser's session here; at the identity provider it stays signed in."""
    sign_in = _open(request)
    sign_in.refuse_foreign(request)
    answer = Response(status_code=204)
    _keep(answer, sign_in, sign_in.session_name, "", 0)
    return answer


def _open(request: Request) -> SignIn:
    sign_in: SignIn | None = request.app.state.services.sign_in
    if sign_in is None or sign_in.public is None:
        raise HTTPException(404, "Browsers cannot sign in here: `oidc` with a `public_url` is not configured.")
    return sign_in


def _keep(answer: Response, sign_in: SignIn, name: str, value: str, for_s: int) -> None:
    answer.set_cookie(name, value, max_age=for_s, path="/", secure=sign_in.secure, httponly=True, samesite="lax")
