"""What an admin or a finance clerk does, one function each, one transaction each; the CLI and the HTTP API call the same ones."""
