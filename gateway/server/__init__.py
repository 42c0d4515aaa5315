"""The HTTP server of one process: uvicorn, the limits that it lacks, and the short way in for what applications call at every turn."""

from gateway.server.server import BACKLOG, Server, build_server, settle_heap

__all__ = ["BACKLOG", "Server", "build_server", "settle_heap"]
