"""The one typed config tree, read once. Nothing else in the package reads a file of settings or the environment."""

from serve_app.config.load import caller_key, check_file, load, profile_names, secret, source_name
from serve_app.config.tree import Config

__all__ = ["Config", "caller_key", "check_file", "load", "profile_names", "secret", "source_name"]
