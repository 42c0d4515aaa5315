"""A gateway that is started under the usual limit of 1,024 files serves as many streams as the system lets it."""

import resource
import subprocess
import sys

from tests.real.child import ROOT

PROGRAM = """
import resource
from backends.transport.direct import DirectTransport
from gateway.cli.process import raise_file_limit
raise_file_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), DirectTransport().pool.connections_max)
"""


def test_the_limit_of_open_files_is_raised_and_half_of_it_is_for_backends() -> None:
    hard = 3000

    def usual() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))

    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, preexec_fn=usual, cwd=ROOT)
    assert done.stdout.split() == ["3000", "3000", "1500"]
