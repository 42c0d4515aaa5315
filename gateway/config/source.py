"""Reads weir.yaml: values, the line each stands on, and ${NAME} or ${NAME:-default} replaced from the environment.

Numbers with a point keep their own digits as text, so that a rate of 0.1 is exactly that. A key written twice is an error, because the
YAML rule (the last one wins) hides mistakes. `$${` stands for a literal `${`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{.*", re.DOTALL)
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_DEPTH_MAX = 20

Place = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration cannot be used; the text says where, what, and what to do."""


class ConfigFile:
    """A configuration file's values, and where each was written."""

    def __init__(self, path: Path, values: dict[str, Any], lines: dict[Place, int]) -> None:
        self.path = path
        self.values = values
        self.lines = lines

    def where(self, place: Place) -> str | None:
        """Write `file:line` of a value, or of the nearest thing around it; None when the file says nothing of it."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.lines:
                return f"{self.path}:{self.lines[place[:length]]}"
        return None


def read_file(path: Path, environ: Mapping[str, str]) -> ConfigFile:
    """Read a configuration file. Raises `ConfigError` when it is absent, no YAML, or names an environment variable that is not set."""
    try:
        root = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: is not valid YAML: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    reader = _Reader(path, environ)
    values = reader.read(root, ()) if root is not None else {}
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: must hold settings, like `server:` with `port: 8080` under it")
    return ConfigFile(path, values, reader.lines)


class _Reader:
    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self.path = path
        self.environ = environ
        self.lines: dict[Place, int] = {}
        self._scalars = yaml.SafeLoader("")

    def read(self, node: yaml.Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        if len(place) > _DEPTH_MAX:
            raise ConfigError(f"{self.path}:{line}: is nested deeper than {_DEPTH_MAX} levels")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*place, index)) for index, item in enumerate(node.value)]
        if node.tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:float"):
            return self._fill_in(str(node.value), line)
        return self._scalars.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in values:
                raise ConfigError(f"{self.path}:{line}: `{key}` is there twice; the first is on line {self.lines[(*place, key)]}")
            self.lines[(*place, key)] = line
            values[key] = self.read(value_node, (*place, key))
        return values

    def _fill_in(self, text: str, line: int) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            reference = _NAME.fullmatch(match[1] or "")
            if reference is None:
                raise ConfigError(f"{self.path}:{line}: `{match[0]}` is no reference; write ${{NAME}} or ${{NAME:-default}}, or $${{ for a literal ${{")
            name, default = reference.groups()
            value = self.environ.get(name, "")
            if not value and default is None and name not in self.environ:
                raise ConfigError(f"{self.path}:{line}: the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
            return value or default or ""

        return _REFERENCE.sub(replace, text)
