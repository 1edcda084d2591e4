"""The health of one node: a state machine over events and a given time. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["DOWN", "MAX_BACKOFF", "NEW", "UP", "Health"]

NEW = "new"  # listed, and not yet seen to work
UP = "up"
DOWN = "down"

#: Seconds between probes of a node that stays dead, at the most.
MAX_BACKOFF = 30.0
# A node that stayed up for this long after its return has stopped flapping.
_CALM_SECONDS = 60.0
# So many broken answers in a row, while other nodes work, are no accident.
_BROKEN_IN_A_ROW = 3


class Health:
    """Whether one node works, since when and why, and when it is probed next.

    Args:
        now: the monotonic time, in seconds.
        interval: seconds until the first probe of a node that failed.
        jitter: gives a factor around 1, so that many clients do not probe in step.

    Not safe for threads: whoever owns it holds a lock.
    """

    __slots__ = (
        "_interval",
        "_jitter",
        "_tries",
        "broken",
        "next_probe",
        "reason",
        "since",
        "state",
    )

    def __init__(self, now: float, interval: float, jitter: Callable[[], float]) -> None:
        self.state = NEW
        self.since = now
        self.reason = "not yet probed"
        self.next_probe = now
        self.broken = 0
        self._interval = interval
        self._jitter = jitter
        self._tries = 0

    def convict(self, now: float, reason: str) -> bool:
        """Take the node out. Returns True only if it was in: a conviction counts once."""
        if self.state == DOWN:
            return False
        if self.state == UP and now - self.since >= _CALM_SECONDS:
            self._tries = 0
        self._change(DOWN, now, reason)
        self._back_off(now)
        return True

    def broke(self, now: float, reason: str, others_work: bool) -> bool:
        """Count an answer that broke off. Returns True if that convicts the node."""
        self.broken += 1
        if self.broken < _BROKEN_IN_A_ROW or not others_work:
            return False
        return self.convict(
            now, f"{self.broken} answers in a row broke off, the last with: {reason}"
        )

    def probe_failed(self, now: float, reason: str) -> None:
        """Keep the node out, and wait longer for the next probe."""
        if self.state == UP:  # it came back by a call in the meantime
            return
        if self.state == NEW:
            self._change(DOWN, now, reason)
        self.reason = reason
        self._back_off(now)

    def works(self, now: float, reason: str) -> bool:
        """Let the node in. Returns True only if it was out."""
        if self.state == UP:
            return False
        self._change(UP, now, reason)
        return True

    def bring_forward(self, now: float) -> None:
        """Have the next probe made now."""
        self.next_probe = min(self.next_probe, now)

    def _change(self, state: str, now: float, reason: str) -> None:
        self.state = state
        self.since = now
        self.reason = reason
        self.broken = 0

    def _back_off(self, now: float) -> None:
        # _tries outlives a short return, so that a node that flaps is kept out longer each time.
        wait = min(self._interval * 2.0 ** min(self._tries, 16), MAX_BACKOFF)
        self._tries += 1
        self.next_probe = now + wait * self._jitter()
