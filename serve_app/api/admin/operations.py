"""All of the operator's routes, and what they are open for, so that a page can say so before it is refused."""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.admin import shapes
from serve_app.api.admin.decisions import AdminDecisions
from serve_app.api.admin.routers import AdminRouters
from serve_app.api.openapi import Operation, answers
from serve_app.api.reply import json_response
from serve_app.gateway.services import Services


def admin_operations(services: Services) -> Iterator[Operation]:
    """Every operation under /v1/admin/, described. Their key is checked before they are called."""
    for group in (AdminAccess(services), AdminDecisions(services), AdminRouters(services)):
        yield from group.operations()


class AdminAccess:
    """One handler over the configured keys. A wrong key is refused before it is called."""

    def __init__(self, services: Services) -> None:
        self._reads = "key" if services.keys else "open"
        self._writes = "closed" if services.admin_key is None else "key"

    def operations(self) -> list[Operation]:
        """All of them, described."""
        said = "What the operator's key is needed for, and whether it was given."
        return [
            Operation(
                "GET",
                "/v1/admin/access",
                "admin_access",
                said,
                self.access,
                answers(shapes.ACCESS),
                admin=True,
            )
        ]

    async def access(self, request: Request) -> Response:
        """Reads, writes, and this request's key."""
        granted = self._writes == "key" and "authorization" in request.headers
        body = {"reads": self._reads, "writes": self._writes, "granted": granted}
        return json_response({"object": "admin.access", **body})
