"""The use of every simulated second."""

import math
from collections.abc import Mapping

BUCKETS = ("compute", "checkpoint", "lost_work", "detect", "reconfigure", "transfer", "rebalance", "restart", "waiting")
"""Productive time first, then every kind of badput."""

RECOVERY_BUCKETS = ("lost_work", "detect", "reconfigure", "transfer", "restart", "waiting")
"""Those that a failure fills."""

ROUNDING = 1e-12
"""Share of all time that a bucket may hold, or lack, by rounding alone."""


class Ledger:
    """A clock that is always in exactly one bucket, so that buckets add up to the time that passed; it begins waiting.

    It is in a `bucket`, and time is booked up to `since_s`.

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.enter("compute", 10.0)
    >>> ledger.close(25.0)
    >>> ledger.move("compute", "lost_work", 5.0)
    >>> {bucket: seconds for bucket, seconds in ledger.seconds().items() if seconds}
    {'compute': 10.0, 'lost_work': 5.0, 'waiting': 10.0}
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(BUCKETS, 0.0)
        self.bucket, self.since_s = "waiting", 0.0

    def enter(self, bucket: str, now_s: float) -> None:
        """Book the time since the last call where the clock was, and go on in another bucket."""
        assert now_s >= self.since_s, "time goes forward"
        self._seconds[self.bucket] += now_s - self.since_s
        self.bucket, self.since_s = bucket, now_s

    def move(self, source: str, target: str, seconds: float) -> None:
        """Book time again elsewhere: computing that a rollback made worthless becomes lost work."""
        assert seconds >= 0, "only time that was booked is moved"
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    def close(self, now_s: float) -> None:
        """Book the time up to the end."""
        self.enter(self.bucket, now_s)

    def seconds(self) -> Mapping[str, float]:
        """Return seconds by bucket; what rounding alone leaves in one is cut off."""
        least_s = ROUNDING * math.fsum(self._seconds.values())
        return {bucket: seconds if seconds > least_s else 0.0 for bucket, seconds in self._seconds.items()}
