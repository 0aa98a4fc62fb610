"""What all settings share: frozen, and a key that is not known is an error."""

from pydantic import BaseModel, ConfigDict


class Node(BaseModel):
    """A branch of the config tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
