"""A replica of a part on Ray Serve: it answers what fronts ask about its part of the shards."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ctxdeploy.cluster.serving_config import ServingConfig
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import StaleStateError
from ctxdeploy.core.part import Part
from ctxdeploy.service.logs import log, start_log
from ctxdeploy.service.part_service import Parts
from ctxdeploy.service.problems import problem_of
from ctxdeploy.service.readiness import Readiness
from ctxdeploy.service.rehearsing import LogDisplay, compile_kernels


@dataclass(frozen=True, kw_only=True)
class PartReply:
    """What a replica sends back.

    Attributes:
        answer: the message; None if there is none.
        status: why there is none, as HTTP has it,
        text: and in words.
        held: with 409, numbers of the states that it holds; None if the state is not what it lacks.
    """

    answer: bytes | None = None
    status: int = 200
    text: str = ""
    held: tuple[int, ...] | None = None


class PartReplica:
    """Searches a part of the shards of archives. Ray Serve makes it, and sends it requests when it is made.

    Args:
        config: which archives.
        part: of their shards.

    Raises:
        CtxdeployError: as of ``Parts``.
    """

    def __init__(self, config: ServingConfig, part: Part) -> None:
        settings = config.settings()
        start_log(settings.service.log_format)
        LogDisplay()
        compile_kernels(Readiness())
        self._threads = ThreadPoolExecutor(settings.service.max_running, thread_name_prefix="ctxdeploy-answer")
        self._parts = Parts(config.places(settings), part, settings.service)
        for served in self._parts:
            served.prepare()

    async def answer(self, archive: str | None, message: bytes, seconds: float) -> PartReply:
        """Return the answer to a message of a front.

        Args:
            archive: that is asked; None where there is one.
            message: of search over shards.
            seconds: that somebody waits for the answer, from now on.
        """
        deadline = Deadline(seconds)
        try:
            loop = asyncio.get_running_loop()
            return PartReply(
                answer=await loop.run_in_executor(self._threads, self._answered, archive, message, deadline)
            )
        except Exception as error:  # an exception of ours would come to the front as one of Ray's
            return self._refusal(error)
        finally:
            deadline.give_up()  # Ray cancels what nobody waits for any more

    async def is_ready(self) -> bool:
        """Return True, to a front that looks whether somebody answers again."""
        return True

    def _answered(self, archive: str | None, message: bytes, deadline: Deadline) -> bytes:
        deadline.check()
        return self._parts.named(archive).answer(message, deadline)[0]

    def _refusal(self, error: Exception) -> PartReply:
        problem = problem_of(error, self._parts.secrets)
        if problem.status == 500:
            log.error("the request failed", exc_info=error)
        held = error.held if isinstance(error, StaleStateError) else None
        return PartReply(status=problem.status, text=problem.detail, held=held)

    def __del__(self) -> None:
        """Close the archives; Ray Serve calls it when the replica is to end."""
        if not hasattr(self, "_parts"):  # it could not be made
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._parts.close()
