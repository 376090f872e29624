"""The guest's half of the oracles, shipped over the transport."""
