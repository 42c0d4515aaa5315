"""llama.cpp's server loads with the OpenMP runtime that another wheel lends, on machines that have none of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from backends import openmp
from tests.real.child import clean_environment

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux wheels ask for libgomp")


@LINUX
def test_llama_cpp_loads_with_the_lent_runtime(tmp_path: Path) -> None:
    runtime = openmp.find_runtime()
    assert runtime is not None
    (tmp_path / openmp.WANTED).symlink_to(runtime)
    program = "import xllamacpp; print([line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line][0])"
    env = {**clean_environment(), "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert Path(done.stdout.strip()).samefile(runtime)


@LINUX
def test_starts_over_with_the_runtime_within_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    reach: dict[str, str] = {}
    monkeypatch.setattr("os.execv", lambda _program, arguments: started.append(arguments))
    monkeypatch.setattr("os.putenv", reach.__setitem__)
    openmp.restart_with_runtime(ImportError("libgomp.so.1: cannot open shared object file"), "--openmp")
    (arguments,) = started
    folder = Path(arguments[-1])
    assert arguments[:-2] == sys.orig_argv
    assert reach == {"LD_LIBRARY_PATH": str(folder)}
    assert (folder / "libgomp.so.1").exists()
    (folder / "libgomp.so.1").unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("error", "argv"),
    [("libcuda.so.1: cannot open", ["x"]), ("libgomp.so.1: cannot open", ["x", "--openmp", "folder"])],
    ids=["another-library", "second-time"],
)
def test_gives_up_where_it_cannot_help(monkeypatch: pytest.MonkeyPatch, error: str, argv: list[str]) -> None:
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("started over for nothing"))
    openmp.restart_with_runtime(ImportError(error), "--openmp")
