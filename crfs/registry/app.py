"""The registry as an aiohttp application: routes, counting, authentication, error bodies."""

import base64
import hmac
from typing import TYPE_CHECKING

from aiohttp import web

from crfs.registry.blobs import BlobHandlers
from crfs.registry.bodies import Meter
from crfs.registry.listings import ListingHandlers
from crfs.registry.manifests import ManifestHandlers
from crfs.registry.refusal import Refusal
from crfs.registry.storage import Storage
from crfs.registry.uploads import UploadHandlers

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

_API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


def build_app(storage: Storage, meter: Meter, credentials: tuple[str, str] | None) -> web.Application:
    """The application; with `credentials` (user, password) it answers nobody else."""
    app = web.Application(middlewares=[_counting(meter), _refusing, _authenticating(credentials)])
    app.on_response_prepare.append(_add_version)
    blobs, uploads = BlobHandlers(storage, meter), UploadHandlers(storage)
    manifests, listings = ManifestHandlers(storage), ListingHandlers(storage)
    # {name} is greedy: the last "/blobs/" or "/manifests/" of a path ends it
    app.add_routes([
        web.get("/v2/", _answer_version),
        web.post("/v2/{name:.+}/blobs/uploads/", uploads.post),
        web.get("/v2/{name:.+}/blobs/uploads/{upload}", uploads.get, allow_head=False),
        web.patch("/v2/{name:.+}/blobs/uploads/{upload}", uploads.patch),
        web.put("/v2/{name:.+}/blobs/uploads/{upload}", uploads.put),
        web.delete("/v2/{name:.+}/blobs/uploads/{upload}", uploads.delete),
        web.get("/v2/{name:.+}/blobs/{digest}", blobs.get),
        web.delete("/v2/{name:.+}/blobs/{digest}", blobs.delete),
        web.get("/v2/{name:.+}/manifests/{reference}", manifests.get),
        web.put("/v2/{name:.+}/manifests/{reference}", manifests.put),
        web.delete("/v2/{name:.+}/manifests/{reference}", manifests.delete),
        web.get("/v2/{name:.+}/tags/list", listings.tags),
        web.get("/v2/{name:.+}/referrers/{digest}", listings.referrers),
    ])  # fmt: skip
    return app


async def _answer_version(_request: web.Request) -> web.StreamResponse:
    return web.json_response({})


async def _add_version(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_API_VERSION)


def _counting(meter: Meter) -> "Middleware":
    """Count requests and whole bodies; what is streamed counts itself as it goes (bodies.py)."""

    @web.middleware
    async def count(request: web.Request, handler: "Handler") -> web.StreamResponse:
        meter.add(requests=1)
        response = await handler(request)
        if isinstance(response, web.Response) and request.method != "HEAD":
            meter.add(bytes_sent=response.content_length or 0)
        return response

    return count


@web.middleware
async def _refusing(request: web.Request, handler: "Handler") -> web.StreamResponse:
    """Answer every refusal, ours and the router's, with an error body."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.response()
    except ConnectionError:
        # the client is gone, and nobody hears this answer
        return web.Response(status=400)
    except web.HTTPMethodNotAllowed as error:
        return Refusal(405, "UNSUPPORTED", error.reason, {"Allow": error.headers.get("Allow", "")}).response()
    except web.HTTPNotFound:
        return Refusal(404, "UNSUPPORTED", f"no such endpoint: {request.path!r}").response()


def _authenticating(credentials: tuple[str, str] | None) -> "Middleware":
    expected = None if credentials is None else base64.b64encode(":".join(credentials).encode())

    @web.middleware
    async def authenticate(request: web.Request, handler: "Handler") -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        allowed = scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), expected or b"")
        if expected is not None and not allowed:
            challenge = {"WWW-Authenticate": 'Basic realm="crfs", charset="UTF-8"'}
            raise Refusal(401, "UNAUTHORIZED", "a user and a password are needed", challenge)
        return await handler(request)

    return authenticate
