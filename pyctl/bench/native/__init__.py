"""Detours of a guest's kernel, run on the processor of this machine."""
