"""The address that a replica's ports are bound to: its node's, as the cluster knows it (127.0.0.1 on a cluster of one).

Ray Serve (2.60) binds the port between deployments to all interfaces and has no setting for it.
"""

import ipaddress
import socket

import ray
from ray.serve._private import replica

_EVERYWHERE = "[::]"


def node_address() -> str:
    """Of the node that this process runs on; other nodes reach it there."""
    here = ray.get_runtime_context().get_node_id()
    address: str = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == here)
    return address


def listener(host: str) -> socket.socket:
    """A socket bound to a free port of the address."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.bind((host, 0))
    return bound


def bind_to_node(host: str | None = None) -> None:
    """Keep Serve's port between deployments off the other interfaces. To be called in a replica's constructor.

    Serve opens the port after the constructor, by a function that is replaced here in this process alone. `host`: the
    node's address if not given. A host name instead of an address leaves the port as it is: gRPC would bind all that
    the name stands for.
    """
    host = node_address() if host is None else host
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return
    opens = replica.add_port_to_grpc_server
    place = f"[{host}]" if version == 6 else host

    def at_node(server: object, address: str) -> int:
        port: int = opens(server, address.replace(_EVERYWHERE, place))
        return port

    replica.add_port_to_grpc_server = at_node
