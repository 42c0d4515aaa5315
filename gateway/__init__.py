"""The gateway itself: HTTP in front, `backends` and `billing` behind, and the only translator between the two."""
