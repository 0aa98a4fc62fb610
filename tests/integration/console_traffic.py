"""Traffic for the console's tests: a few callers in the background, and one person at the page."""

import asyncio
import threading
from typing import Any

import httpx

from serve_app.lab.sample import sample


class Load(threading.Thread):
    """Traffic of a few callers, until `stop`."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self._url, self._key, self._over, self.sent = url, key, threading.Event(), 0

    def run(self) -> None:
        asyncio.run(self._send())

    async def _send(self) -> None:
        items = sample(n=200, seed=11, split="unseen")
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            client.headers["authorization"] = f"Bearer {self._key}"

            async def one(first: int) -> None:
                for item in items[first:] + items:
                    if self._over.is_set():
                        return
                    model = "jethro-cascade" if self.sent % 6 == 0 else "jethro"
                    body = {"model": model, "messages": [{"role": "user", "content": item.prompt}], "temperature": 0}
                    (await client.post("/v1/chat/completions", json=body)).raise_for_status()
                    self.sent += 1
                    await asyncio.sleep(0.15)

            await asyncio.gather(*(one(i * 20) for i in range(4)))

    def __enter__(self) -> "Load":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join(30)


def ask(page: Any, text: str) -> Any:
    """Type a prompt, send it by Enter, and return the card of its finished answer."""
    page.get_by_label("Your prompt").fill(text)
    page.keyboard.press("Enter")
    turn = page.get_by_label("Turn", exact=True).last
    card = turn.locator("article").first
    card.locator(".thumbs").wait_for()
    return card
