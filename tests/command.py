"""The `weir` command as a test calls it: in this process, in an empty directory, with what it printed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.cli import main
from tests.desk import migrated


class Said(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Weir = Callable[..., Said]


def weir_in(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    """Return `weir(*arguments) -> Said`, working in `path` over an empty, migrated SQLite database."""
    for name in [name for name in os.environ if name.startswith("WEIR_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(path)
    monkeypatch.setenv("COLUMNS", "200")
    (path / "weir-data").mkdir()
    (path / "weir-data" / "weir.db").write_bytes(migrated())

    def weir(*arguments: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return weir
