"""Credits set aside for running processes, so that each can admit from memory and none spends what another may."""
