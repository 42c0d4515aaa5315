"""What must not be in the repository: one machine's paths, package mirrors, secrets, and build outputs."""

import re
from pathlib import Path

import pytest

from tests.tidy.test_tidy import ROOT, name, tracked

# Assembled so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "tm" + "p", "Us" + "ers"]) + r")/[\w.-]+/?")
INDEX_HOST = re.compile(r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|--(?:extra-)?index[-]url|--find[-]links", re.IGNORECASE)
SECRET = re.compile(r"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{40,}|AKIA[0-9A-Z]{16}|-----BEGIN (?:RSA |EC )?PRIVATE KEY-----")
OUTPUTS = {".pyc", ".so", ".o", ".whl", ".db", ".sqlite", ".wal"}
FILE_BYTES_MAX = 3_000_000


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        if path.name == "uv.lock":
            continue
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found.append((path, data.decode("utf-8", "replace")))
    return found


@pytest.mark.parametrize(
    ("pattern", "why"),
    [(MACHINE_PATH, "a path of one machine"), (INDEX_HOST, "a package index: only uv.lock names one"), (SECRET, "what looks like a secret")],
    ids=["machine-paths", "package-indexes", "secrets"],
)
def test_no_tracked_text_holds(pattern: re.Pattern[str], why: str) -> None:
    hits = [
        f"{name(path)}:{number}: {line.strip()[:120]}"
        for path, text in texts()
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not hits, f"{why}:\n" + "\n".join(hits)


def test_no_build_output_is_tracked() -> None:
    assert [name(path) for path in tracked() if path.suffix in OUTPUTS or path.stat().st_size > FILE_BYTES_MAX] == []


def test_root_holds_only_what_was_agreed() -> None:
    agreed = {"gateway", "backends", "billing", "deploy", "tests", "examples", ".ci"}
    agreed |= {
        "pyproject.toml",
        "Dockerfile",
        ".dockerignore",
        "README.md",
        "Makefile",
        "uv.lock",
        "CHANGELOG.md",
        "LICENSE",
        ".gitignore",
        ".pre-commit-config.yaml",
    }
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= agreed


@pytest.mark.parametrize("script", [".ci/run", "deploy/vllm-cpu/serve"])
def test_script_can_be_run(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111, f"{script} is not executable"
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
