"""Whose turn it is at what takes one thread at a time."""

import threading
from collections import deque


class Turns:
    """A lock that threads get in the order in which they asked: who releases one of Python's may take it again at once,
    and a stream of photos kept a query waiting for six of its batches so."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_taken = False

    def __enter__(self) -> None:
        mine = threading.Event()
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            self._waiting.append(mine)
        try:
            mine.wait()
        except BaseException:  # Ctrl-C
            with self._mutex:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                else:
                    self._pass_on()
            raise

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._mutex:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._is_taken = False
