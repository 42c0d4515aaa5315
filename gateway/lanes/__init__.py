"""Lanes: who goes next. Pure arithmetic over credits and queues, and one async gate around it."""
