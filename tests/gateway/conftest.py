"""The in-process clients of the API's tests."""

from tests.api.conftest import client

__all__ = ["client"]
