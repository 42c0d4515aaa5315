"""Shapes on the wire: what a client's bytes mean, and the bytes it is answered with."""
