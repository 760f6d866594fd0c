"""An exact assignment of rows to columns at least cost, by shortest augmenting paths, in NumPy alone.

Jonker and Volgenant's form of the Hungarian method with row and column prices; O(rows² · columns) time.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def assign(cost: Float[np.ndarray, "n m"], *, maximize: bool = False) -> tuple[Int[np.ndarray, " k"], ...]:
    """Rows and the columns that they are given, ascending by row, k = min(n, m) of them.

    Args:
        cost: (n, m) finite; a row of the longer side may stay without a partner.
        maximize: whether the sum is to be the largest.

    Raises:
        ValueError: if the cost is no matrix of finite numbers.

    >>> rows, columns = assign(np.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0]]))
    >>> rows.tolist(), columns.tolist()
    ([0, 1], [1, 0])
    """
    table = np.asarray(cost, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"cost must have shape (rows, columns), got {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("cost holds NaN or infinity; give pairs that may not be a large finite cost")
    if maximize:
        table = -table
    if table.shape[0] > table.shape[1]:
        columns, rows = assign(table.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    n, m = table.shape
    row_price, column_price = np.zeros(n), np.zeros(m)
    row_of, column_of = np.full(m, -1), np.full(n, -1)
    for start in range(n):
        shortest, came_from = np.full(m, np.inf), np.full(m, -1)
        done, tree = np.zeros(m, dtype=bool), [start]
        row, reached, end = start, 0.0, -1
        while end < 0:
            through = reached + table[row] - row_price[row] - column_price
            better = ~done & (through < shortest)
            shortest[better], came_from[better] = through[better], row
            column = int(np.argmin(np.where(done, np.inf, shortest)))
            reached = float(shortest[column])
            done[column] = True
            if row_of[column] < 0:
                end = column
            else:
                row = int(row_of[column])
                tree.append(row)
        row_price[start] += reached
        for other in tree[1:]:
            row_price[other] += reached - shortest[column_of[other]]
        column_price[done] -= reached - shortest[done]
        # The path is turned over: every row on it gets the column by which the next was reached.
        while end >= 0:
            row = int(came_from[end])
            row_of[end] = row
            column_of[row], end = end, int(column_of[row])
    return np.arange(n), column_of
