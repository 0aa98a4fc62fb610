"""The fronts of this folder's tests."""

from tests.front.small_servers import front, short_folder

__all__ = ["front", "short_folder"]
