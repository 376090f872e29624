"""Oracles that nobody here wrote: other ways to count the same hits, and the kernel's own text.

``bcc`` and ``tracefs`` count function entries, ``netlink`` packets; ``snapshot`` makes two
counters comparable; ``kerneltext`` compares all kernel text before and after.
"""
