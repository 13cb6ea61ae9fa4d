"""Refused requests in OpenAI's error format: one sentence, the field, a type and a code."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from ..option_checks import shown


class RequestError(Exception):
    """A request that is not answered as asked.

    Args:
        status: of HTTP. message: one sentence. param: the field that it is about. code: a word for programs.
        retry_after: seconds after which it is worth another try.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def content(self) -> dict[str, Any]:
        """The JSON that a client gets."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_after))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.content(), self.status, headers)


def of_validation(errors: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> RequestError:
    """The first of pydantic's errors as one sentence; ``fields`` are those that the body may have."""
    error = errors[0]
    where = [str(part) for part in error["loc"] if part != "body"]
    param, kind = (where[0] if where else None), error["type"]
    if kind == "rule":  # of schemas.py
        message, param = error["ctx"]["sentence"], error["ctx"]["param"]
    elif kind == "extra_forbidden":
        close = difflib.get_close_matches(str(param), fields, n=1)
        message = f"There is no field {shown(param)}{f' (did you mean {close[0]}?)' if close else ''}; leave it out."
    elif kind == "missing" and param is not None:
        message = f"{param} is missing; give it."
    elif kind == "json_invalid":
        message, param = "The body is not valid JSON; send one JSON object.", None
    else:
        message = "The body must be a JSON object, sent with the header Content-Type: application/json."
    return RequestError(400, message, param=param)


def of_input(sentence: str, fields: Sequence[str]) -> RequestError:
    """The error about bad options that a model found; the field is the first word of the sentence that is one."""
    words = (word.strip(".,;:()'") for word in sentence.split())
    return RequestError(400, sentence, param=next((word for word in words if word in fields), None))
