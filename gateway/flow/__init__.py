"""The life of a request, one step per file: admit, reserve, queue, relay, settle. `run.py` alone knows the order."""
