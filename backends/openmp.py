"""Lends llama.cpp an OpenMP runtime where the machine has none.

The wheel of llama.cpp's server names `libgomp.so.1` and does not bring it; a machine without a compiler often lacks it. Another small
wheel (pykdtree) carries one in its own folder, under another name. The loader looks only at its path of start, so whoever needs it is
started again with a folder on that path in which the library has the name that is asked for.
"""

import os
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

WANTED = "libgomp.so.1"
LENDER = "pykdtree"


def find_runtime() -> Path | None:
    """Find the GNU OpenMP runtime inside the lender's distribution; None when it is not installed or brings none."""
    try:
        listed = files(LENDER) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in listed if file.name.startswith("libgomp-") and ".so" in file.name), None)


def restart_with_runtime(error: ImportError, flag: str) -> None:
    """Start this program again with the runtime within reach, `flag` and the folder to remove added to its arguments.

    Returns where that cannot help: the error is another one, this is the second time already, or there is no runtime to lend.
    """
    runtime = find_runtime()
    if WANTED not in str(error) or flag in sys.argv or runtime is None:
        return
    folder = tempfile.mkdtemp(prefix="weir-openmp-")
    Path(folder, WANTED).symlink_to(runtime)
    os.putenv("LD_LIBRARY_PATH", folder)
    os.execv(sys.executable, [*sys.orig_argv, flag, folder])
