"""Where credits went: double entry, one transaction per tenant and batch, each summing to 0."""
