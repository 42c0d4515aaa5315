"""Puts the layers of the configuration together, and says of every mistake where it stands and what was probably meant."""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from gateway.config.settings import NO_BACKEND, Settings
from gateway.config.source import ConfigError, ConfigFile, Place, read_file
from gateway.config.words import UNKNOWN, meant, names_at, plain, shows_value

__all__ = ["ConfigError", "child_environment", "config_path", "load_settings", "unknown_names"]

PREFIX = "WEIR_"
PATH_NAME = "WEIR_CONFIG"
DEFAULT_PATH = Path("weir.yaml")


def config_path(given: Path | None) -> Path | None:
    """Tell which file to read: the one given, else the one WEIR_CONFIG names, else ./weir.yaml where there is one, else none."""
    if given is not None:
        return given
    if named := os.environ.get(PATH_NAME):
        return Path(named)
    return DEFAULT_PATH if DEFAULT_PATH.is_file() else None


def load_settings(path: Path | None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read the settings: defaults < the file < WEIR_* (nested by __) < `overrides` (flags, nested as the settings are).

    Raises `ConfigError`, whose text has one line for each mistake.
    """
    file = read_file(path, os.environ) if path is not None else ConfigFile(Path("(no file)"), {}, {})
    flags = overrides or {}

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=file.values)

    try:
        return Layered(**flags)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(dict(fault), file, flags) for fault in error.errors())) from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}; a group of settings is written as JSON, or one by one with __ between the names") from None


def unknown_names() -> list[str]:
    """Say of each WEIR_* name in the environment that sets nothing what was probably meant."""
    found = []
    for name in sorted(os.environ):
        if not name.startswith(PREFIX) or name == PATH_NAME:
            continue
        first, *rest = name.removeprefix(PREFIX).split("__")
        if first.lower() not in Settings.model_fields:

            def spell(word: str, rest: list[str] = rest) -> str:
                return PREFIX + "__".join([word.upper(), *rest])

            found.append(f"environment {name} sets nothing" + meant(first.lower(), list(Settings.model_fields), spell))
    return found


def child_environment() -> dict[str, str]:
    """Return the environment for a program that we start: ours, without our own settings and the secrets among them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def _line(fault: dict[str, Any], file: ConfigFile, flags: dict[str, Any]) -> str:
    place: Place = fault["loc"] or (fault.get("ctx") or {}).get("place", ())
    name = ".".join(str(part) for part in place)
    where = _origin(place, file, flags)
    if fault["type"] == UNKNOWN:
        return f"{where}: unknown key `{name}`{meant(str(place[-1]), names_at(Settings, place[:-1]))}"
    given = f", not {fault['input']!r:.80}" if shows_value(fault) and not _secret(place) and fault["type"] != NO_BACKEND else ""
    return f"{where}: {f'`{name}`: ' if name else ''}{plain(fault)}{given}"


def _origin(place: Place, file: ConfigFile, flags: dict[str, Any]) -> str:
    if _given(place, flags):
        return "flag"
    for length in range(len(place), 0, -1):
        name = PREFIX + "__".join(str(part) for part in place[:length]).upper()
        if os.environ.get(name):
            return f"environment {name}"
    return file.where(place) or str(file.path)


def _given(place: Place, flags: Any) -> bool:
    for part in place:
        if not isinstance(flags, dict) or part not in flags:
            return False
        flags = flags[part]
    return bool(place)


def _secret(place: Place) -> bool:
    return any(str(part) in ("secret", "client_secret", "api_key", "url", "database") for part in place)
