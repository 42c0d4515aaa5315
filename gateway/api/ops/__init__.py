"""What an operator's probes and scrapes call. No key is needed, and nothing about a tenant is said."""
