"""A day of traffic on plans that nobody has bought yet: the gateway's own decisions under a virtual clock."""
