"""Of all tests: hypothesis without deadlines (a slow machine is no failure) and with the same examples every time."""

from hypothesis import settings

settings.register_profile("jethro", deadline=None, derandomize=True)
settings.load_profile("jethro")
