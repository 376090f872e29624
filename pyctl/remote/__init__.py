"""Shipped to the host and run there: standard library only, Python 3.9 or later."""
