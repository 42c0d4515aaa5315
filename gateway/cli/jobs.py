"""`weir jobs`: what a gateway does by and by, done now."""

import typer

from billing.jobs import run_jobs
from gateway.cli.books import ConfigOption, open_books

app = typer.Typer(no_args_is_help=True, help="Jobs: what a gateway does by and by (close periods, end grants, tell other systems), done now.")


@app.callback()
def _jobs() -> None:
    """Keep `run` a name of its own, also while it is the only one."""


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run every job until nothing is left to do. A gateway does the same every ten minutes; doing it twice changes nothing."""
    with open_books(config) as books:
        done: dict[str, int] = {}
        while True:
            did = {name: count for name, count in run_jobs(books.database, books.now_us).items() if count}
            if not did:
                break
            done |= {name: done.get(name, 0) + count for name, count in did.items()}
    for name, count in sorted(done.items()):
        typer.echo(f"{name}: {count}")
    if not done:
        typer.echo("nothing to do")
