"""What an admin said of model servers while the gateways run: which are drained, and their shares."""
