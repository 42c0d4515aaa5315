"""Who may use the gateway: tenants, their keys, and the feed of changes that running gateways follow."""
