"""Tokens without money: everything that speaks to a model server, and nothing that knows a price."""
