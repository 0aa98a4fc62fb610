"""The images of one request, checked: how many, of which type and size, and that their bytes are what they say.

Nothing is fetched: of a URL only its form is checked. Who fetches it is the server whose model reads it, see
`Capabilities.image_urls`.
"""

import binascii
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError
from serve_app.images import Image, ImageDetail, ImageType
from serve_app.types import Message

_DATA_URI: Final = re.compile(r"data:([a-z0-9.+-]+/[a-z0-9.+-]+);base64,", re.IGNORECASE)
_LONGEST_HEAD: Final = 128
_ALIASES: Final = {"image/jpg": "image/jpeg"}
_SCHEMES: Final = ("http://", "https://")


class ImageReader:
    """Checks the images of one request, one after the other."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._read = 0

    def read(self, url: str, detail: ImageDetail | None, param: str) -> Image:
        """The image at `url`, an http(s) URL or a data URI. `param` is its place in the caller's body.

        Raises RequestError that names `param` for one too many, one too large, of another type, or malformed. No
        message quotes any of it.
        """
        self._read += 1
        limits = self._limits
        if self._read > limits.images:
            most = f"at most {limits.images} images in a request" if limits.images else "images are not accepted here"
            raise _invalid(param, f"{most}.", code="too_many_images")
        if url[:5].lower() == "data:":
            self._check_bytes(url, param)
        else:
            _check_address(url, limits.image_url_chars, param)
        return Image(url, detail, param)

    def of_bytes(self, media_type: str, data: str, param: str) -> Image:
        """The image with these bytes, in base64: where an API has type and bytes apart. Raises as `read` does."""
        return self.read(f"data:{media_type};base64,{data}", None, param)

    def _check_bytes(self, url: str, param: str) -> None:
        limits = self._limits
        head = _DATA_URI.match(url[:_LONGEST_HEAD])
        if head is None:
            raise _invalid(param, "write an image's bytes as data:image/png;base64,... with its own type.")
        kind = _ALIASES.get(head[1].lower(), head[1].lower())
        if kind not in limits.image_types:
            raise _invalid(
                param, f"the type of an image is one of {', '.join(limits.image_types)}.", code="invalid_image_type"
            )
        at = head.end()
        size = (len(url) - at) * 3 // 4 - url[-2:].count("=")
        if size > limits.image_bytes:
            raise _invalid(
                param,
                f"at most {limits.image_bytes} bytes an image, got {size}: send a smaller one.",
                code="image_too_large",
            )
        try:
            # a copy of the bytes alone: it is the quickest check of the whole text that the standard library has
            found = binascii.a2b_base64(url[at:].encode("ascii"), strict_mode=True)
        except (binascii.Error, UnicodeEncodeError):
            raise _invalid(
                param, "the image's bytes are not valid base64 (with padding, without line breaks)."
            ) from None
        if image_type(found) != kind:
            raise _invalid(param, f"the bytes are not those of a file of type {kind}.", code="invalid_image")


def checked_images(messages: Sequence[Message], limits: LimitsConfig) -> tuple[Message, ...]:
    """Messages of OpenAI's chat with their images checked, in order; named by their place there."""
    reader = ImageReader(limits)
    return tuple(
        [
            _checked(message, f"messages.{i}.content", reader) if message.parts else message
            for i, message in enumerate(messages)
        ]
    )


def _checked(message: Message, param: str, reader: ImageReader) -> Message:
    parts = [
        reader.read(part.url, part.detail, f"{param}.{i}.image_url") if isinstance(part, Image) else part
        for i, part in enumerate(message.parts)
    ]
    return replace(message, parts=tuple(parts))


def image_type(data: bytes) -> ImageType | None:
    """The type of a file by its first bytes; None for one that is none of those that are known here."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def _check_address(url: str, longest: int, param: str) -> None:
    if len(url) > longest:
        raise _invalid(param, f"at most {longest} characters in an image's URL, got {len(url)}.")
    if not url.lower().startswith(_SCHEMES):
        raise _invalid(param, "an image is an http:// or https:// URL, or a data: URI.")
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host or not url.isprintable() or " " in url:
        raise _invalid(param, "the image's URL needs a host, and no blanks or control characters.")


def _invalid(param: str, why: str, *, code: str = "invalid_value") -> RequestError:
    return RequestError(f"{param}: {why}", param=param, code=code)
