"""From a sweep's folder to its table, figures and report: ``python -m seglab.sweep DIR``.

In a notebook::

    from seglab.sweep import collect, make

    table = make(collect("runs/sweeps/cac_tau-camvid"))
    table.rows[0].mean, table.rows[0].sd
"""

from seglab.sweep.collect import Published, Run, Sweep, collect
from seglab.sweep.table import Grid, Row, Table, grid, make

__all__ = ["Grid", "Published", "Row", "Run", "Sweep", "Table", "collect", "grid", "make"]
