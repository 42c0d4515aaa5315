"""Writes an export where the user wants it: a file that is there whole or not at all, or standard output. What it holds is said on standard error."""

from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile

import typer

from billing.errors import Invalid
from billing.files.manifest import Manifest, encode
from billing.operations.exports import Export


def deliver(export: Export, path: Path | None, *, manifest: bool = False) -> Manifest:
    """Make an export at `path` (with `manifest`, FILE.manifest.json beside it), or on standard output. Raises `Invalid` when that cannot be written."""
    if path is None:
        if manifest:
            raise Invalid("manifest", "manifest: it is written beside a file; name one with -o FILE")
        with TemporaryFile() as whole:  # nothing of an export that fails half way goes down the pipe
            made = export.make(whole)
            whole.seek(0)
            copyfileobj(whole, typer.get_binary_stream("stdout"))
        return made
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w+b") as file:
            made = export.make(file)
        part.replace(path)
        if manifest:
            path.with_name(path.name + ".manifest.json").write_bytes(encode(made))
    except OSError as error:
        raise Invalid("output", f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    typer.echo(f"wrote {path}: {made.rows} rows, {made.bytes} bytes, sha256 {made.sha256}", err=True)
    for name, total in made.totals.items():
        if total not in ("0", 0, {}):
            typer.echo(
                f"  {name}: {total if not isinstance(total, dict) else ', '.join(f'{amount} {currency}' for currency, amount in total.items())}", err=True
            )
    return made
