"""An export as an answer. It is made whole before its head is sent, on disk: an export that fails is a problem, never half a file with a 200.

So the head can say what the file holds: `content-length`, `repr-digest` (RFC 9530) and `x-weir-rows`, and `x-weir-totals`, the control totals as JSON.
"""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import msgspec
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from billing.operations.exports import Export

_AT_ONCE = 256 * 1024


def download(export: Export) -> StreamingResponse:
    """Make an export and answer with it, a piece at a time. Raises what making it raises."""
    with ExitStack() as unsent:
        file: Any = unsent.enter_context(TemporaryFile())
        made = export.make(file)
        file.seek(0)
        unsent.pop_all()  # from here on it is closed when the answer has been sent
    headers = {
        "content-disposition": f'attachment; filename="{export.filename}"',
        "content-length": str(made.bytes),
        "cache-control": "no-store",
        "repr-digest": f"sha-256=:{b64encode(bytes.fromhex(made.sha256)).decode()}:",
        "x-weir-rows": str(made.rows),
        "x-weir-totals": msgspec.json.encode(made.totals).decode(),
    }
    return StreamingResponse(_pieces(file), media_type=export.media_type, headers=headers, background=BackgroundTask(file.close))


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(_AT_ONCE):
            yield piece
