"""What the gateway says about itself: metric names, the metrics, and the log."""
