"""Steady calls from several threads; every response is checked to belong to its request."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ..conftest import TABLE, until


@dataclass
class Call:
    """One call: when it began and ended (monotonic seconds), and how it failed, if it did."""

    thread: int
    began: float
    ended: float
    error: BaseException | None

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Traffic:
    """Calls from 8 threads until the block is left.

    Each thread writes an item of its own and reads it again, so a response that was given to the
    wrong call is noticed.
    """

    client: Any
    threads: int = 8
    calls: list[Call] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._end = threading.Event()
        self._running = [
            threading.Thread(target=self._run, args=(number,)) for number in range(self.threads)
        ]
        for thread in self._running:
            thread.start()
        self.goes_on()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        for thread in self._running:
            thread.join(timeout=90)
        assert not any(thread.is_alive() for thread in self._running), "a call hangs"
        assert self.mixed_up == []

    def goes_on(self, calls: int = 3, seconds: float = 30.0) -> None:
        """Wait until every thread has made so many calls from here on."""
        begin = time.monotonic()

        def all_did() -> bool:
            done = [0] * self.threads
            for call in reversed(self.calls):
                if call.began < begin:
                    break
                done[call.thread] += 1
            return min(done) >= calls

        until(all_did, seconds)

    def since(self, begin: float, end: float = float("inf")) -> list[Call]:
        return [call for call in list(self.calls) if begin <= call.began and call.ended <= end]

    def failed(self) -> list[BaseException]:
        return [call.error for call in list(self.calls) if call.error is not None]

    def told(self) -> str:
        """Say what was made, what failed, and the slowest."""
        slowest = max(call.seconds for call in self.calls)
        text = f"{len(self.calls)} calls, {len(self.failed())} failed, slowest {slowest:.3f} s"
        print(text)
        return text

    def _run(self, number: int) -> None:
        turn = 0
        written = False
        while not self._end.is_set() and turn < 100_000:
            turn += 1
            name = f"{number}-{turn // 2 % 50}"
            error = None
            began = time.monotonic()
            try:
                if turn % 2 == 0:
                    written = False
                    self.client.put_item(TableName=TABLE, Item={"name": {"S": name}})
                    written = True
                elif written:
                    found = self.client.get_item(TableName=TABLE, Key={"name": {"S": name}})
                    if found.get("Item", {}).get("name", {}).get("S") != name:
                        self.mixed_up.append(f"asked for {name}, got {found}")
            except Exception as caught:
                error = caught
            self.calls.append(Call(number, began, time.monotonic(), error))
            if error is not None:
                self._end.wait(0.01)
