"""The only room that opens sockets to model servers.

`seam.py` says what a transport is; `direct.py` speaks HTTP/1.1 on httptools (the hot road); `over_httpx.py` is the same seam on
httpx, for hosts behind a proxy and for whoever prefers it.
"""
