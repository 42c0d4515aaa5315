"""Ties a child process to the life of the process that started it: `python tether.py GRACE_S PARENT_PID COMMAND...`.

A server of ours must never outlive the gateway, not even when the gateway is killed with -9, and must take its own workers along (an
orphaned engine holds the GPU). So this small parent stands between: the kernel tells it when the gateway dies (PR_SET_PDEATHSIG), it
ends the child's whole group, first asked and then killed, and the kernel kills the child if this one is killed itself. It imports the
standard library only and is run by path, so that it starts in milliseconds. Without Linux it watches its parent's id instead.
"""

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
POLL_S = 0.2


def die_with_parent(signum: int) -> None:
    """Have the kernel send this process a signal when its parent ends; does nothing where the kernel cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)


class Tether:
    """One child, in a process group of its own. Signals drive it: it sleeps in `wait` and costs nothing meanwhile."""

    def __init__(self, command: list[str], *, grace_s: int, parent: int) -> None:
        self.grace_s = grace_s
        self.parent = parent
        self.ending = False
        # Safe here and not in the gateway: this process has no other thread that could hold a lock over the fork.
        self.child = subprocess.Popen(command, process_group=0, preexec_fn=lambda: die_with_parent(signal.SIGKILL))
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGALRM, self._tick)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the gateway, which then ends us
        die_with_parent(signal.SIGTERM)
        if sys.platform != "linux":
            signal.setitimer(signal.ITIMER_REAL, POLL_S, POLL_S)
        if os.getppid() != self.parent:  # it ended before the kernel was asked to tell
            self._end(signal.SIGTERM, None)

    def _end(self, _signum: int, _frame: FrameType | None) -> None:
        """Ask the group to end, and be called again when its grace is over."""
        if not self.ending:
            self.ending = True
            self._signal(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, max(self.grace_s, POLL_S))

    def _tick(self, _signum: int, _frame: FrameType | None) -> None:
        if self.ending:
            self._signal(signal.SIGKILL)
        elif os.getppid() != self.parent:
            self._end(signal.SIGTERM, None)

    def _signal(self, signum: int) -> None:
        try:
            os.killpg(self.child.pid, signum)
        except ProcessLookupError:
            return  # the whole group has gone

    def run(self) -> int:
        """Wait for the child; return its exit status as a shell would."""
        code = self.child.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._signal(signal.SIGKILL)  # workers that the child left behind
        return code if code >= 0 else 128 - code


def main() -> int:
    """Run the command of the arguments."""
    grace_s, parent, *command = sys.argv[1:]
    try:
        return Tether(command, grace_s=int(grace_s), parent=int(parent)).run()
    except OSError as error:
        sys.stderr.write(f"{command[0] if command else '(no command)'} cannot be started: {error}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main())
