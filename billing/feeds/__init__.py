"""Use and invoices told to the operator's own systems: its billing, its metering, or any program behind a signed webhook."""
