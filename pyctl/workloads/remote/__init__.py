"""The guest's half of the workloads: standard library only, Python 3.9 or later, shipped
over the transport (``network`` also needs the host's python3-pyroute2)."""
