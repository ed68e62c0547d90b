"""What the registry answers when it won't: a status and the error body of the distribution specification."""

import json
from collections.abc import Mapping

from aiohttp import web


class Refusal(Exception):
    """A request that ends in an error body; raised anywhere below a handler, answered by the application."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """The answer, JSON as in "Error Codes" of the specification."""
        body = {"errors": [{"code": self.code, "message": str(self), "detail": None}]}
        return web.Response(
            status=self.status, text=json.dumps(body), content_type="application/json", headers=self.headers
        )
