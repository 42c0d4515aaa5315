"""The pepper: a secret kept apart from the database, with which the digests of API keys are made.

Whoever has only the database can therefore check no guessed key. With SQLite, one machine, it is generated once into the data
directory; with a database that several machines share it must be given, the same on all of them, as WEIR_SECRET.
"""

import hashlib
import os
import secrets
from pathlib import Path

from gateway.config.settings import Settings
from gateway.config.source import ConfigError


def secret_path(settings: Settings) -> Path:
    """Tell where a generated secret is kept."""
    return settings.data_dir / "secret"


def pepper(settings: Settings) -> bytes:
    """Return the pepper, 32 bytes, generating its file (mode 0600) where that is allowed. Raises `ConfigError` where it is not."""
    if settings.secret is not None:
        return _derive(settings.secret.get_secret_value())
    path = secret_path(settings)
    try:
        if not path.exists():
            if not settings.embedded:
                raise ConfigError("secret: a shared database needs one secret on every machine; set WEIR_SECRET, for example to: openssl rand -hex 32")
            _generate(path)
        text = path.read_text("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{path}: the secret cannot be read or made: {error.strerror or error}; make {path.parent} writable, or set WEIR_SECRET") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a secret that weir wrote; restore it, or set WEIR_SECRET") from error
    if len(text) < 16:
        raise ConfigError(f"{path}: is too short to be a secret; restore it, or set WEIR_SECRET (keys issued before will need their old secret)")
    return _derive(text)


def _generate(path: Path) -> None:
    """Write a fresh secret, so that of two processes that start together one wins and no one ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"secret.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_hex(32).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(own, path)
    except FileExistsError:
        pass  # the other process was first: its secret is the one
    finally:
        own.unlink()


def _derive(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
