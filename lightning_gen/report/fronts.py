"""Which runs no other run beats at both quality and cost."""

from collections.abc import Sequence


def front(values: Sequence[float | None], costs: Sequence[float | None], higher: bool) -> list[int]:
    r"""Return the places on the Pareto front, by rising cost.

    A place i is on it if no other j has a value at least as good and a cost at most as high, one of them strictly:
    :math:`\nexists j: v_j \ge v_i, c_j \le c_i, (v_j, c_j) \ne (v_i, c_i)`, with :math:`v_j \le v_i` where lower is
    better. Places without a value or a cost are on none; equal ones are on it together.

    Args:
        values: quality of each.
        costs: cost of each, such as seconds.
        higher: whether a higher value is a better one.
    """
    sign = -1 if higher else 1
    known = [
        (cost, sign * value, place)
        for place, (value, cost) in enumerate(zip(values, costs, strict=True))
        if value is not None and cost is not None
    ]
    found: list[int] = []
    best: tuple[float, float] | None = None  # (cost, value) of the newest on the front
    for cost, value, place in sorted(known):
        if best is None or value < best[1] or (cost, value) == best:
            best = (cost, value)
            found.append(place)
    return found
