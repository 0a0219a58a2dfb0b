"""Rendezvous hashing (Thaler and Ravishankar, 1998): everybody finds the same home for a name.

When a node comes or goes, only the names whose home it becomes or was move.
"""

import hashlib


def affinity(name: str, node: str) -> bytes:
    """Of a name to a node: the node where it is highest is the name's home."""
    return hashlib.blake2b(f"{name}\0{node}".encode(), digest_size=8).digest()
