"""The machines that a config may count on, and whether its demand fits them. Nothing is looked up here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from serve_app.config.base import Node


class NodeConfig(Node):
    """Machines of one kind; what the operating system and Kubernetes keep for themselves is not counted."""

    cpus: PositiveFloat = Field(description="CPUs of one machine.")
    memory_gib: PositiveFloat | None = Field(None, description="null: memory is not checked.")
    gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs of one machine.")
    accelerator_type: str | None = Field(None, description="As Ray calls it, for instance L4 or H100.")
    count: PositiveInt = Field(1, description="Most machines of this kind that there can be.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="Kubernetes labels of these nodes, to which the pods of GPU pools are bound."
    )


class ClusterConfig(Node):
    """Stated machines make `jethro config check` refuse replicas that fit none; without them nothing is checked."""

    nodes: tuple[NodeConfig, ...] = Field((), description="Kinds of machines.")


@dataclass(frozen=True, slots=True)
class ResourceDemand:
    """What one replica requires, and how many replicas there must be at least."""

    who: str
    cpus: float
    gpus: float = 0.0
    memory_gib: float = 0.0
    accelerator_type: str | None = None
    replicas: int = 1

    def fits(self, node: NodeConfig) -> bool:
        """Whether one replica fits an empty machine of this kind."""
        return (
            self.cpus <= node.cpus
            and self.gpus <= node.gpus
            and (node.memory_gib is None or self.memory_gib <= node.memory_gib)
            and self.accelerator_type in (None, node.accelerator_type)
        )

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPUs"]
        parts += [f"{self.gpus:g} GPUs"] if self.gpus else []
        parts += [f"an accelerator {self.accelerator_type}"] if self.accelerator_type else []
        parts += [f"{self.memory_gib:g} GiB"] if self.memory_gib else []
        return ", ".join(parts)


def misfit(nodes: Sequence[NodeConfig], demands: Sequence[ResourceDemand]) -> str | None:
    """Why the nodes cannot hold the smallest demand, with what to change; None if they can.

    Each replica must fit one machine, and all least replicas the sum of the machines. The sum is a necessary condition
    only: pieces that fit in sum may still not pack.
    """
    if not nodes:
        return None
    for demand in demands:
        if demand.gpus and not any(node.gpus for node in nodes):
            return f"{demand.who} requires {demand.gpus:g} GPUs and no node of cluster.nodes has any: add one or set 0"
        if not any(demand.fits(node) for node in nodes):
            return (
                f"{demand.who} requires {demand} in one replica and no single node of cluster.nodes has that: "
                "require less, or add a larger node"
            )
    for what, have in (("cpus", _total(nodes, "cpus")), ("gpus", _total(nodes, "gpus"))):
        if (need := sum(d.replicas * getattr(d, what) for d in demands)) > have + 1e-9:
            return (
                f"the least replicas require {need:g} {what} in sum and cluster.nodes have {have:g}: lower the least "
                "replicas, or add nodes"
            )
    return None


def _total(nodes: Sequence[NodeConfig], what: str) -> float:
    return float(sum(node.count * getattr(node, what) for node in nodes))
