"""What the log says of a node that is cut off: since when, whom it has heard, and whether it was its own machine that kept it
waiting. A node whose process got no time for `fence_after` is isolated as rightly as one whose cable was pulled; but who reads
the log looks for the one in the network, and for the other at the load.

Pure: it is told the time.
"""

from __future__ import annotations

import logging

from clockworker.cluster._fence import Fence

log = logging.getLogger("clockworker.cluster")


class Outage:
    """Of a node that is in the view, by its fence."""

    def __init__(self, fence: Fence, now: float) -> None:
        self._fence = fence
        self._lapses = 0.0  # when the node stops owning, as it was known last; 0: nothing is expected
        self._since: float | None = None  # when it has stopped, and the log has said so
        self._beat_at = now
        self._stood = 0.0  # seconds of the last time that a beat came late
        self._stood_until = float("-inf")

    def beat(self, now: float) -> None:
        """One is sent."""
        late = now - self._beat_at - self._fence.beat_s
        if late > self._fence.beat_s:
            self._stood, self._stood_until = late, now
        if late > self._fence.fence_after / 2:
            log.warning(
                "this process stood still for %.1f s: its machine is busy, or it was stopped. After %.1f s of that the node is "
                "cut off",
                late,
                self._fence.fence_after,
            )
        self._beat_at = now

    def adopted(self, now: float, *, is_member: bool) -> None:
        """A view, which nobody has confirmed yet."""
        if not is_member:
            self._lapses, self._since = 0.0, None
        elif self._since is None:
            self._lapses = now + self._fence.fence_after

    def look(self, now: float, until: float) -> None:
        """until: as the fence says."""
        if not self._lapses:
            return
        if self._since is None and now >= self._lapses:
            self._since = self._lapses
            log.warning("this node is cut off and serves no keys: %s", self._why(now))
        if until > now:
            if self._since is not None:
                log.warning(
                    "this node is confirmed again, and serves its keys: it did not for %.1f s", now - self._since
                )
                self._since = None
            self._lapses = until

    def _why(self, now: float) -> str:
        fence = self._fence
        heard = ", ".join(
            f"{name} never" if ago is None else f"{name} {ago:.1f} s ago" for name, ago in fence.heard_ago(now).items()
        )
        if higher := fence.yields_to(now):
            return f"nodes run at epoch {higher}, to which this one yields, at epoch {fence.epoch}"
        said = f"most of the cluster has not confirmed it for {now - self._lapses + fence.fence_after:.1f} s"
        if heard:
            said += f"; heard: {heard}"
        if now - self._stood_until < fence.node_timeout:
            said += f"; this process itself stood still for {self._stood:.1f} s"
        return said
