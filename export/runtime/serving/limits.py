"""`Limits`: what one client can ask of the server at most."""

from dataclasses import dataclass

from .errors import RequestError
from .flags import RULES
from .schemas import CompletionRequest, InfillRequest, InterpolationRequest


@dataclass(frozen=True)
class Limits:
    """Flags of ``ld4lg serve``.

    Args:
        max_samples: texts of a request. max_steps: sampling steps of a text.
        max_running: texts that are denoised at the same time. max_waiting: texts that wait for that.
        max_body: bytes of a request's body. max_seconds: from a request to its last text.
    """

    max_samples: int = 32
    max_steps: int = 1000
    max_running: int = 64
    max_waiting: int = 256
    max_body: int = 2**20
    max_seconds: float = 120.0

    def check(self, request: CompletionRequest | InterpolationRequest | InfillRequest) -> None:
        """Refuses a request that is too large.

        Raises:
            RequestError: the sentence names the field and the limit.
        """
        count = request.num_texts if isinstance(request, CompletionRequest) else request.n or 1
        self._check("n", count, "texts a request", "max_samples")
        if isinstance(request, CompletionRequest):
            self._check("steps", request.steps or 1, "sampling steps", "max_steps")

    def _check(self, field: str, value: int, what: str, limit: str) -> None:
        most = getattr(self, limit)
        if value > most:
            flag = f"--{limit.replace('_', '-')} {value}"
            remedy = (
                f"ask for fewer, or start it with {flag}" if RULES[limit].allows(value) else "ask for fewer"
            )
            message = f"{field} is {value}; this server gives at most {most} {what}: {remedy}."
            raise RequestError(400, message, param=field)
