"""Raw requests to a registry, and small images to push: for tests of servers, so without a client of ours."""

import hashlib
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
BLOB = bytes(range(256)) * 40


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """The error code of the body."""
        code: str = json.loads(self.body)["errors"][0]["code"]
        return code


class Client:
    """Raw requests, one connection each."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> Answer:
        """`headers` with underscores for dashes."""
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def upload(self, name: str) -> str:
        """The path of a new upload."""
        answer = self.ask("POST", f"/v2/{name}/blobs/uploads/", Content_Length="0")
        assert answer.status == 202
        return urlsplit(answer.headers["Location"]).path

    def push_blob(self, name: str, data: bytes) -> str:
        digest = digest_of(data)
        assert self.ask("PUT", f"{self.upload(name)}?digest={digest}", data).status == 201
        return digest

    def push_manifest(
        self, name: str, reference: str, document: Mapping[str, object], media_type: str = OCI_MANIFEST
    ) -> Answer:
        body = json.dumps(document).encode()
        return self.ask("PUT", f"/v2/{name}/manifests/{reference}", body, Content_Type=media_type)


def descriptor(data: bytes, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def image(client: Client, name: str, content: bytes = BLOB, **more: object) -> dict[str, object]:
    """A manifest of one layer, whose blobs have been pushed."""
    client.push_blob(name, b"{}")
    client.push_blob(name, content)
    config = descriptor(b"{}", OCI_CONFIG)
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config}
    return {**document, "layers": [descriptor(content)], **more}
