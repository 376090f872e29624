"""The guest's half of the benchmarks: standard library only, shipped over the transport."""
