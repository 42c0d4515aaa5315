"""What a tenant is promised: versioned plans, and which version a tenant is subscribed to."""
