"""Benchmarks: what quiescence costs and whether it holds, as plain values.

The package measures and draws; ``djp bench`` shows.
"""

from pyctl.bench.quiesce import Step, run_quiesce
from pyctl.bench.rows import Case, Cell, Row, Verdict, default_cells, product_cells

__all__ = [
    "Case",
    "Cell",
    "Row",
    "Step",
    "Verdict",
    "default_cells",
    "product_cells",
    "run_quiesce",
]
