"""How much to set aside at once: much while there is much, exactly what is needed near the end. Pure."""

CAP = "cap:"  # a ceiling is leased like a purse, under this prefix: cap:key:<id>, cap:project:<name>


def quantum(available_ncr: int, processes: int, need_ncr: int, leased_ncr: int, lease_max_ncr: int) -> int:
    """Return how many ncr a process is given of what is available, where it has `leased_ncr` and lacks `need_ncr`.

    Half of an even share, so that what is left halves with each draw and no process runs far ahead of the others; never so much that its
    lease passes `lease_max_ncr`, which bounds what a crash strands. A need goes before both: where a share is less than one request
    needs, the process gets what is needed, as long as it is there; so the last credits are given out exactly.
    """
    share = min(available_ncr // (2 * processes), lease_max_ncr - leased_ncr)
    return max(0, min(available_ncr, max(share, need_ncr)))
