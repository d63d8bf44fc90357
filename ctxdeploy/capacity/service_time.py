"""How long the slowest of several servers takes: a log-normal time, of which a small share takes much longer.

The body is what one server was measured to take (median, 99th percentile); the slow share stands for what a measurement
of a minute does not see: a neighbour on the machine, a disk that is busy, a collected page.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

_Z99 = NormalDist().inv_cdf(0.99)
_LEAST_SIGMA = 1e-6


@dataclass(frozen=True, kw_only=True)
class ServiceTime:
    """The time of one search on one server.

    Attributes:
        median: seconds, above 0.
        spread: 99th percentile of the body by its median, 1 or more.
        slow_share: part of the searches, 0 to 1, that take ``slow_times`` as long.
        slow_times: 1 or more.
    """

    median: float
    spread: float = 1.0
    slow_share: float = 0.0
    slow_times: float = 1.0

    @property
    def sigma(self) -> float:
        """Deviation of the logarithm of the body."""
        return max(math.log(self.spread) / _Z99, _LEAST_SIGMA)

    @property
    def mean(self) -> float:
        """Seconds."""
        slow = 1 + self.slow_share * (self.slow_times - 1)
        return self.median * math.exp(self.sigma**2 / 2) * slow

    @property
    def second_moment(self) -> float:
        """Mean of the square, in seconds²."""
        slow = 1 + self.slow_share * (self.slow_times**2 - 1)
        return self.median**2 * math.exp(2 * self.sigma**2) * slow

    def share_within(self, seconds: float) -> float:
        """Return the part of the searches that take at most so long."""
        if seconds <= 0:
            return 0.0
        normal = NormalDist(sigma=self.sigma)
        fast = normal.cdf(math.log(seconds / self.median))
        slow = normal.cdf(math.log(seconds / (self.median * self.slow_times)))
        return (1 - self.slow_share) * fast + self.slow_share * slow

    def quantile(self, share: float) -> float:
        """Return the seconds within which a share of the searches ends; 0 < share < 1."""
        low, high = self.median * math.exp(-12 * self.sigma), self.median * self.slow_times * math.exp(12 * self.sigma)
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.share_within(middle) < share else (low, middle)
        return high

    def slowest(self, servers: int, share: float) -> float:
        """Return the seconds within which all of some servers, independent of each other, have answered a share of
        the queries."""
        return self.quantile(share ** (1 / servers))

    def load(self, rate: float) -> float:
        """Return the part of its time that a server works which is asked ``rate`` times a second."""
        return rate * self.mean

    def mean_wait(self, rate: float) -> float:
        """Return the mean seconds that a search waits for those before it (Pollaczek and Khinchine; exact where
        requests come by chance and are served in order); infinite where the server cannot keep up."""
        load = self.load(rate)
        return rate * self.second_moment / (2 * (1 - load)) if load < 1 else math.inf

    def wait_quantile(self, rate: float, share: float) -> float:
        """Return the seconds within which a share of the searches begins: exact for exponential times, near it else."""
        load = self.load(rate)
        if load >= 1:
            return math.inf
        if share <= 1 - load:
            return 0.0
        return self.mean_wait(rate) / load * math.log(load / (1 - share))
