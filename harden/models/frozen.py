"""What the maker of a network froze, in a file or in code: it stays frozen, and is told of."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_LISTED = 5


def keep_frozen(module: nn.Module, *, maker: str = "the file") -> tuple[str, ...]:
    """Return notes on the layers of a network that are frozen in the file or code it comes from; they stay so.

    A network that is frozen as a whole, as copies for averaging and for inference are, is trained as a whole: its
    parameters are unfrozen, in place. The same goes for one that is in eval mode as a whole.
    """
    parameters = list(module.named_parameters())
    if not any(p.requires_grad for _, p in parameters):
        for _, p in parameters:
            if p.is_floating_point() or p.is_complex():
                p.requires_grad_(True)
        return (f"every layer is frozen in {maker}; all of them will be trained",) if parameters else ()
    notes = []
    frozen = [(name, p.numel()) for name, p in parameters if not p.requires_grad]
    if frozen:
        share = sum(count for _, count in frozen) / sum(p.numel() for _, p in parameters)
        notes.append(f"frozen in {maker}, and left so: {_listed([name for name, _ in frozen])} ({share:.0%} of it)")
    still = [
        name
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and not part.training and any(p.requires_grad for p in part.parameters())
    ]
    if still and any(part.training for part in module.modules()):
        notes.append(
            f"in eval mode in {maker}, but not frozen: {_listed(still)}; their statistics will be trained, unless "
            f"they are frozen (--freeze {still[0]})"
        )
    return tuple(notes)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", ... ({len(names)} in all)" if len(names) > _LISTED else "")
