"""HTTP Basic (RFC 7617) for one origin: a URL's userinfo, or an account at a token server. Any thread."""

import base64
from collections.abc import Sequence


def basic_header(username: str, password: str) -> str:
    """The Authorization header, in UTF-8."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class BasicAuthorizer:
    """Sends a user name and password unasked, as curl does (see `crfs.blobs.http.Authorizer`)."""

    def __init__(self, username: str, password: str) -> None:
        self._header = basic_header(username, password)

    async def authorization(self) -> str | None:
        """The same header each time."""
        return self._header

    async def renew(self, status: int, challenges: Sequence[str], sent: str | None) -> bool:
        """There is nothing else to send."""
        return False
