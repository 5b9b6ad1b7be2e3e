"""Holm's correction of p-values for several comparisons."""

from __future__ import annotations

from collections.abc import Sequence


def holm_corrected(values: Sequence[float]) -> list[float]:
    """Return `max over j <= i of min(1, (n - j + 1) p_(j))` for the i-th smallest p-value `p_(i)` of `n`, in the given order.

    Rejecting every hypothesis whose corrected p-value is below `alpha` keeps the probability of any false rejection at or
    below `alpha`, whatever the dependence between the tests.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).

    Args:
        values: p-values in [0, 1].

    >>> holm_corrected([0.03, 0.01, 0.02])
    [0.04, 0.03, 0.04]
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected
