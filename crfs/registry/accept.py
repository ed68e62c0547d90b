"""Content negotiation of manifests: is the one there is among those a client takes? Pure."""

from collections.abc import Iterable


def accepts(headers: Iterable[str], media_type: str) -> bool:
    """Whether Accept headers allow `media_type` (RFC 9110, 12.5.1); no header at all allows everything.

    The most specific range that matches decides, and it allows unless its weight is zero.
    """
    ranges = [part for header in headers for part in header.split(",") if part.strip()]
    if not ranges:
        return True
    weights = dict(_parse_range(part) for part in ranges)
    for candidate in (media_type.lower(), media_type.lower().partition("/")[0] + "/*", "*/*"):
        if candidate in weights:
            return weights[candidate] > 0
    return False


def _parse_range(part: str) -> tuple[str, float]:
    """The media range and its weight, 1 where none is given or it is no number."""
    media_range, *parameters = (field.strip().lower() for field in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_range, float(value)
            except ValueError:
                break
    return media_range, 1.0
