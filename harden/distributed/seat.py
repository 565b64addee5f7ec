"""Which process of a run this one is, as torchrun's variables say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harden.errors import UsageError


@dataclass(frozen=True)
class Seat:
    """Which of the processes this one is.

    Attributes:
        rank: from 0, which leads.
        size: how many there are.
        local_rank: among those of this machine.
        local_size: how many of them are on this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def environment(self, port: int) -> dict[str, str]:
        """Return torchrun's variables for a process on this machine that finds the leader at `port`."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }


def seat_in(environment: Mapping[str, str]) -> Seat | None:
    """Return the seat that torchrun's variables name; None for a process of its own.

    Raises:
        UsageError: they contradict each other.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_RANK", rank)), int(environment.get("LOCAL_WORLD_SIZE", size))
        sound = 0 <= rank < size and 0 <= local[0] < local[1] <= size
    except ValueError:
        sound = False
    if not sound:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        raise UsageError(
            "the environment names no process of a run: "
            + ", ".join(f"{name}={environment[name]}" for name in names if name in environment),
            hint="start with torchrun or --processes, or unset RANK and WORLD_SIZE",
        )
    return Seat(rank, size, *local) if size > 1 else None
