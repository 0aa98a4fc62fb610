"""Turns a Query into the model's token ids: chat template, tokenizer, and whether prompt and answer fit the context."""

from typing import Any

from jinja2 import TemplateError

from serve_app.errors import ContextLengthExceeded, RequestError
from serve_app.types import Query


class PromptEncoder:
    """Encodes queries for one tokenizer and one context length (tokens). Safe to call from any thread."""

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens

    def encode(self, query: Query) -> list[int]:
        """The prompt's token ids, at least one.

        Raises:
            RequestError: the chat template refuses the messages, or an empty prompt has no token to start from.
            ContextLengthExceeded: no room for the answer that is asked for.
        """
        ids = self._chat(query) if query.endpoint == "chat" else self._raw(query)
        self._check_room(len(ids), query.sampling.max_tokens)
        return ids

    def room(self, prompt_tokens: int) -> int:
        """Tokens that an answer to a prompt of this length can have."""
        return self._context_tokens - prompt_tokens

    def _raw(self, query: Query) -> list[int]:
        ids: list[int] = self._tokenizer(query.prompt).input_ids
        if ids:
            return ids
        start = self._tokenizer.bos_token_id
        if start is None:
            raise RequestError("prompt is empty and the model has no token that starts a text", param="prompt")
        return [start]

    def _chat(self, query: Query) -> list[int]:
        if self._tokenizer.chat_template is None:
            raise RequestError("this model has no chat template: ask it through /v1/completions", param="messages")
        text = self._render([m.to_openai() for m in query.messages], query.extra.get("chat_template_kwargs") or {})
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _render(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """The text of the messages. The role `developer`, which few templates know, is then tried as `system`."""
        attempts = [messages]
        if any(m["role"] == "developer" for m in messages):
            attempts.append([{**m, "role": "system"} if m["role"] == "developer" else m for m in messages])
        for attempt in attempts:
            try:
                text: str = self._tokenizer.apply_chat_template(
                    attempt, add_generation_prompt=True, tokenize=False, **options
                )
            except (TemplateError, TypeError) as e:
                error = e
            else:
                return text
        raise RequestError(f"the model's chat template refuses the messages: {error}", param="messages") from error

    def _check_room(self, prompt_tokens: int, max_tokens: int | None) -> None:
        if prompt_tokens + (max_tokens or 1) <= self._context_tokens:
            return
        asked = f" and {max_tokens} tokens are asked for" if max_tokens else ""
        raise ContextLengthExceeded(
            f"the model's context is {self._context_tokens} tokens, but the prompt has {prompt_tokens}{asked}; "
            f"shorten the prompt{' or lower max_tokens' if max_tokens else ''}",
            param="messages",
        )
