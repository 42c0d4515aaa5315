"""Puts the layers of the configuration together, and says of every mistake where it stands and what was probably meant."""

import os
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from gateway.config.settings import NO_BACKEND, Settings
from gateway.config.source import ConfigError, ConfigFile, Place, read_file
from gateway.config.words import plain, shows_value

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

            found.append(f"environment {name} sets nothing" + _meant(first.lower(), list(Settings.model_fields), spell))
    return found


def child_environment() -> dict[str, str]:
    """Return the environment for a program that we start: ours, without our own settings and the secrets among them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def _line(fault: dict[str, Any], file: ConfigFile, flags: dict[str, Any]) -> str:
    place: Place = fault["loc"] or (fault.get("ctx") or {}).get("place", ())
    name = ".".join(str(part) for part in place)
    where = _origin(place, file, flags)
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key `{name}`{_meant(str(place[-1]), _names_at(place[:-1]), str)}"
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
    return any(str(part) in ("secret", "api_key", "url", "database") for part in place)


def _meant(word: str, known: list[str], spell: Any) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean `{spell(close[0])}`?" if close else (f"; known here: {', '.join(sorted(known))}" if known else "")


def _names_at(place: Place) -> list[str]:
    """List the keys that a place in the settings may have."""
    kind: Any = Settings
    for part in place:
        kind = _inside(kind, part)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _inside(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
    elif get_origin(kind) in (dict, list, tuple):
        kind = get_args(kind)[-1]
    if get_origin(kind) in (Union, UnionType):
        kind = next((option for option in get_args(kind) if option is not type(None)), None)
    return kind
