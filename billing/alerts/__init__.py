"""Word of what happens to a tenant's credits: thresholds that its use reached, and the webhooks that tell of them.

`thresholds.py` decides what was reached, `webhook.py` what an endpoint is and what it is told, `store.py` keeps both and the outbox. Sending is the gateway's.
"""
