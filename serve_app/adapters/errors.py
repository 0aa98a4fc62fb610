"""What is wrong with an adapter. Sent to callers, and shown to operators, as it is."""

from serve_app.errors import RequestError


class InvalidAdapter(RequestError):
    """An adapter that cannot be used: its files, its size, or its base model. The message says what to do."""

    default_code = "invalid_adapter"
