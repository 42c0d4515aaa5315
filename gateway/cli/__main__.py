"""`python -m gateway.cli`: the `weir` command where its script is not on the path."""

from gateway.cli import main

main()
