"""House rules that a linter does not know: sizes, who may read the clock and the environment, and that every room says what it is."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "backends", "billing")
FILE_LINES_MAX = 400
BODY_LINES_MAX = 60
POSITIONAL_MAX = 5
README_LINES_MAX = 80
BANNED = {  # text -> the only files that may contain it
    "datetime.now(": {"gateway/clock.py"},
    "time.time(": {"gateway/clock.py"},
    "time.time_ns(": {"gateway/clock.py"},
    "os.environ": {"gateway/config/load.py"},
    "os.getenv": set(),
    "float(": {"backends/load.py", "gateway/wire/openai.py", "gateway/telemetry/metrics.py"},
    "BaseHTTPMiddleware": set(),
    "NotImplementedError": set(),
    "TO" + "DO": set(),
    "FIX" + "ME": set(),
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def rooms() -> Iterator[Path]:
    """Every package folder that holds more than its own `__init__.py`."""
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            if any(path.name != "__init__.py" for path in init.parent.glob("*.py")):
                yield init.parent


def tracked() -> list[Path]:
    """List what git knows, or would add: ignored files are nobody's business."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are the project's")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = ast.get_docstring(node, clean=False)
    start = node.body[1].lineno if docstring is not None and len(node.body) > 1 else node.body[0].lineno
    assert node.end_lineno is not None
    return node.end_lineno - start + 1


def function_problems(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if body_lines(node) > BODY_LINES_MAX:
            yield f"{node.lineno} {node.name}: body over {BODY_LINES_MAX} lines"
        positional = [a.arg for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]
        if len(positional) > POSITIONAL_MAX:
            yield f"{node.lineno} {node.name}: {len(positional)} positional parameters, at most {POSITIONAL_MAX}"


@pytest.mark.parametrize("path", list(modules()), ids=name)
def test_module_is_tidy(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    problems = list(function_problems(tree))
    if (lines := text.count("\n")) > FILE_LINES_MAX:
        problems.append(f"{lines} lines, at most {FILE_LINES_MAX}")
    if text.strip() and ast.get_docstring(tree) is None:
        problems.append("says nothing about itself (module docstring)")
    if path.stem in VAGUE:
        problems.append(f"`{path.stem}` is no name for what a module owns")
    problems += [f"`{text_}` belongs in {sorted(allowed) or 'no file'}" for text_, allowed in BANNED.items() if text_ in text and name(path) not in allowed]
    assert not problems, "\n".join(f"{name(path)}: {problem}" for problem in problems)


@pytest.mark.parametrize("room", list(rooms()), ids=name)
def test_room_has_a_readme(room: Path) -> None:
    readme = room / "README.md"
    assert readme.is_file(), f"{name(room)} has no README.md: what it means, what it owns, what it does not own"
    assert 1 < readme.read_text().count("\n") <= README_LINES_MAX, f"{name(readme)}: between 2 and {README_LINES_MAX} lines"
