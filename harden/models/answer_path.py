"""Which results of a forward pass still meet weights on their way to the answer; read off the graph of autograd.

Scores meet none: what a head gives is averaged, scaled or shifted at most. Features meet the weights of the head,
however many numbers they have.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node


def feeding_weights(answer: Node | None, images: Tensor) -> dict[Node, bool]:
    """Return, of each step of a pass that depends on the images, whether its result feeds a weight matrix afterwards.

    Args:
        answer: the function of the scores; None for scores that depend on nothing.
        images: that were passed, requiring gradients, as the parameters do.
    """
    if answer is None:
        return {}
    order = _inputs_first(answer)
    moved: set[Node] = set()
    matrix: set[Node] = set()
    for node in order:
        variable = getattr(node, "variable", None)
        inputs = _inputs(node)
        if variable is images or any(n in moved for n in inputs):
            moved.add(node)
        elif (variable is not None and _is_matrix(variable)) or any(n in matrix for n in inputs):
            matrix.add(node)
    feeds = {answer: False}
    for node in reversed(order):
        if node not in moved or node not in feeds:
            continue
        after = feeds[node] or any(n in matrix for n in _inputs(node))
        for n in _inputs(node):
            if n in moved:
                feeds[n] = feeds.get(n, False) or after
    return feeds


def _inputs_first(answer: Node) -> list[Node]:
    """Return the nodes behind `answer`, each after those that it depends on."""
    order: list[Node] = []
    seen = {answer}
    stack: list[tuple[Node, Iterator[Node]]] = [(answer, iter(_inputs(answer)))]
    while stack:
        node, rest = stack[-1]
        following = next((n for n in rest if n not in seen), None)
        if following is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(_inputs(following))))
    return order


def _inputs(node: Node) -> list[Node]:
    return [n for n, _ in node.next_functions if n is not None]


def _is_matrix(variable: Tensor) -> bool:
    """Whether a parameter mixes numbers; one number for each class or channel only scales or shifts."""
    return sum(size > 1 for size in variable.shape) >= 2


__all__ = ["Node", "feeding_weights"]
