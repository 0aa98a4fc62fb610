"""Where the endpoint is. Without it nothing here is collected: these tests run in environments of their own."""

import os

import pytest

collect_ignore_glob = [] if "JETHRO_CLIENTS_URL" in os.environ else ["*"]


@pytest.fixture(scope="session")
def url() -> str:
    """The endpoint's base URL, with /v1."""
    return os.environ["JETHRO_CLIENTS_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    """A key that the endpoint accepts."""
    return os.environ["JETHRO_CLIENTS_KEY"]
