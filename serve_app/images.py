"""What travels next to the text of a query: images, which nothing here reads or fetches, and what is known of the
conversation that it continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

ImageDetail = Literal["auto", "low", "high", "original"]
ImageType = Literal["image/png", "image/jpeg", "image/webp", "image/gif"]
_LOW_DETAIL_TOKENS: Final = 85
_TOKENS: Final = 765


@dataclass(frozen=True, slots=True)
class Image:
    """An image: an http(s) URL, or a data URI with its bytes.

    `url` goes to models that can see, as it is, and nowhere else: it is in no text, and `repr` leaves it out. `param`
    is the part's place in the caller's own body, for errors that name it.
    """

    url: str = field(repr=False)
    detail: ImageDetail | None = None
    param: str = field(default="messages", compare=False)

    @property
    def inline(self) -> bool:
        """Whether the bytes are here, and nothing has to be fetched."""
        return self.url[:5].lower() == "data:"

    @property
    def tokens(self) -> int:
        """An estimate of the tokens it is read as: what OpenAI's models count of 1024 x 1024 pixels, by its detail."""
        return _LOW_DETAIL_TOKENS if self.detail == "low" else _TOKENS

    def to_openai(self) -> dict[str, Any]:
        """The image as OpenAI's part of a message."""
        named = {"url": self.url} if self.detail is None else {"url": self.url, "detail": self.detail}
        return {"type": "image_url", "image_url": named}


TextOrImage = str | Image
"""A part of a message."""


def text_of(parts: Sequence[TextOrImage]) -> str:
    """The texts among the parts, a line each."""
    return "\n".join([part for part in parts if isinstance(part, str)])


@dataclass(frozen=True, slots=True)
class Session:
    """The conversation that a query continues. `pool`: that answered it last, None: not known.

    `stays`: the query is to stay there. `start`: so many leading messages are what routers score, as they did when the
    conversation got there; 0: all. `shared`: an estimate of the share of the prompt that the pool has read before.
    """

    pool: str | None = None
    stays: bool = False
    start: int = 0
    shared: float = 0.0
