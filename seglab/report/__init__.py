"""From a sweep's folder to its table, figures and report: ``python -m seglab.report DIR``.

In a notebook::

    from seglab.report import collect, make

    table = make(collect("runs/sweeps/cac_tau-camvid"))
    table.rows[0].mean, table.rows[0].sd
"""

from seglab.report.collect import Published, Run, Sweep, collect
from seglab.report.table import Grid, Row, Table, grid, make

__all__ = ["Grid", "Published", "Row", "Run", "Sweep", "Table", "collect", "grid", "make"]
