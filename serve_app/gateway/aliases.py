"""Names of an operator's own for models, such as those that command-line agents send (`server.model_aliases`)."""

import fnmatch
import re
from collections.abc import Mapping


class ModelAliases:
    """Maps names to the names they stand for. A name with `*` or `?` is a pattern; one without goes before them."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.targets = dict(aliases)
        self.names = {name: target for name, target in aliases.items() if not set(name) & set("*?[")}
        """Those that are no pattern."""
        patterns = [(name, target) for name, target in aliases.items() if name not in self.names]
        self._patterns = [(re.compile(fnmatch.translate(name)), target) for name, target in patterns]

    def target(self, model: str) -> str | None:
        """What the name stands for: by its own entry, else by the first pattern that matches; None for neither."""
        if model in self.names:
            return self.names[model]
        return next((target for pattern, target in self._patterns if pattern.fullmatch(model)), None)
