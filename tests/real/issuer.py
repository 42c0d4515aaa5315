"""An OpenID provider on a real socket whose keys and tokens a test makes as it likes: true ones, and every kind of forged one.

Its token endpoint redeems a code once, and only for the verifier of its challenge (PKCE). `down` answers 503 to everything.
"""

import base64
import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

CLIENT = "weir"
RSA = RSAKey.generate_key(2048)
KEYS: dict[str, RSAKey | ECKey | OKPKey] = {"RS256": RSA, "ES256": ECKey.generate_key("P-256"), "EdDSA": OKPKey.generate_key("Ed25519")}
STRANGER = RSAKey.generate_key(2048)


def b64(data: bytes | str) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


class TestIssuer:
    """One provider. `asked` counts the requests by path; `codes` are those that may be redeemed: code -> (challenge, claims of the token)."""

    __test__ = False

    def __init__(self, now_s: Callable[[], int]) -> None:
        self.now_s = now_s
        self.keys: dict[str, RSAKey | ECKey | OKPKey] = {f"kid-{alg}": key for alg, key in KEYS.items()}
        self.asked: dict[str, int] = {}
        self.codes: dict[str, tuple[str, dict[str, Any]]] = {}
        self.down = False
        self.discovery: dict[str, Any] = {}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.answer(self, b"")

            def do_POST(self) -> None:
                issuer.answer(self, self.rfile.read(int(self.headers["content-length"])))

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = urlsplit(handler.path).path
        self.asked[path] = self.asked.get(path, 0) + 1
        status, content = (503, {"error": "down"}) if self.down else self._found(path, body)
        data = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _found(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/.well-known/openid-configuration":
            own = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", "authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token"}
            return 200, own | self.discovery
        if path == "/keys":
            return 200, {"keys": [{**key.as_dict(private=False), "kid": kid, "use": "sig"} for kid, key in self.keys.items()]}
        if path == "/token":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            challenge, claims = self.codes.pop(form["code"], ("", {}))
            if challenge != b64(hashlib.sha256(form["code_verifier"].encode()).digest()):
                return 400, {"error": "invalid_grant"}
            return 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": self.token(claims)}
        return 404, {}

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return the claims of a good token, with some changed; one that is None is left out."""
        now_s = self.now_s()
        good = {"iss": self.url, "aud": CLIENT, "sub": "u1", "iat": now_s, "exp": now_s + 300, "email": "ada@example.com", "email_verified": True}
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def token(self, changed: Mapping[str, Any] | None = None, *, alg: str = "RS256", head: Mapping[str, Any] | None = None, key: Any = None) -> str:
        """Sign a token: a good one, but for what is changed in its claims and its head."""
        header = {"alg": alg, "typ": "JWT", "kid": f"kid-{alg}", **(head or {})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the name EdDSA
            payload = json.dumps(self.claims(**(changed or {})))
            registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
            return jws.serialize_compact(header, payload, key or KEYS[alg], registry=registry)

    def unsigned(self, head: Mapping[str, Any], payload: str | None = None, signature: str = "") -> str:
        """Write a token by hand."""
        return f"{b64(json.dumps(head))}.{b64(json.dumps(self.claims(groups=['admins'])) if payload is None else payload)}.{signature}"

    def signed_with_public_key(self) -> str:
        """Sign with the provider's public key as if it were a shared secret: the classic confusion of algorithms."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            secret = OctKey.import_key(b64(RSA.as_pem(private=False)))
            return self.token({"groups": ["admins"]}, alg="HS256", head={"kid": "kid-RS256"}, key=secret)
