"""The command ``djp``: a thin layer of typer and rich over the library."""
