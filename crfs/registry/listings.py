"""Handlers of lists: tags, page by page, and referrers. Loop thread only."""

import re
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from crfs.registry.names import check_digest, check_name
from crfs.registry.refusal import Refusal
from crfs.registry.storage import Storage, StoredManifest, tag_order
from crfs.registry.validation import INDEX_TYPES, Descriptor, parse_manifest

_NUMBER = re.compile(r"[0-9]{1,9}")


class ListingHandlers:
    """`/v2/NAME/tags/list` and `/v2/NAME/referrers/DIGEST`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def tags(self, request: web.Request) -> web.StreamResponse:
        """Tags after `last`, at most `n`, with a Link to the rest: 200, 400 or NAME_UNKNOWN."""
        name = check_name(request.match_info["name"])
        if not self._storage.has_repository(name):
            raise Refusal(404, "NAME_UNKNOWN", f"repository {name} is not known here")
        last, limit = request.query.get("last", ""), _parse_limit(request.query.get("n"))
        rest = [tag for tag in self._storage.list_tags(name) if tag_order(tag) > tag_order(last)]
        page = rest[:limit]
        headers = _next_page(name, limit, page[-1]) if page and len(page) < len(rest) else {}
        return web.json_response({"name": name, "tags": page}, headers=headers)

    async def referrers(self, request: web.Request) -> web.StreamResponse:
        """An index of the manifests whose subject is the digest, empty where there are none: 200."""
        name = check_name(request.match_info["name"])
        subject = check_digest(request.match_info["digest"])
        wanted = request.query.get("artifactType")
        found = [_describe(manifest) for manifest in self._storage.list_referrers(name, subject)]
        manifests = [descriptor for descriptor in found if wanted in (None, descriptor.artifact_type)]
        headers = {} if wanted is None else {"OCI-Filters-Applied": "artifactType"}
        body = msgspec.json.encode({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": manifests})
        return web.Response(body=body, headers=headers | {"Content-Type": INDEX_TYPES[0]})


def _parse_limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise Refusal(400, "PAGINATION_NUMBER_INVALID", f"invalid number of results {text!r}")
    return int(text)


def _next_page(name: str, limit: int | None, last: str) -> dict[str, str]:
    query = urlencode({"n": limit, "last": last})
    return {"Link": f'</v2/{name}/tags/list?{query}>; rel="next"'}


def _describe(manifest: StoredManifest) -> Descriptor:
    parsed = parse_manifest(manifest.content, manifest.link.media_type)
    return Descriptor(
        parsed.media_type, manifest.digest, len(manifest.content), parsed.artifact_type, parsed.annotations
    )
