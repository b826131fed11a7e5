"""Workers talk to each other directly: collectives, and state for joiners, over authenticated TCP (docs/adr/0008)."""

from trainers.mesh.cost import choose_topology
from trainers.mesh.mesh import Mesh
from trainers.mesh.views import MeshClosed, MeshTimeout, Peer, Superseded, TransferFailed, View, WireCount

__all__ = [
    "Mesh", "MeshClosed", "MeshTimeout", "Peer", "Superseded", "TransferFailed", "View", "WireCount",
    "choose_topology",
]  # fmt: skip
