"""Every store and every operation can be the first module that is imported: none leans on what another happened to have loaded."""

import subprocess
import sys

import pytest

from tests.real.child import ROOT

FOUND = [*(ROOT / "billing").glob("*/store.py"), *(ROOT / "billing" / "operations").glob("*.py"), *(ROOT / "billing" / "jobs").glob("*.py")]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FOUND)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_books_can_be_imported_first(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
