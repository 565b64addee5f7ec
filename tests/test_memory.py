from __future__ import annotations

import pytest
import torch

from harden.memory import by_parts, is_out_of_memory


def test_what_torch_and_python_say_when_memory_runs_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(("limit", "sizes"), [(100, [8, 8, 4]), (5, [4, 4, 4, 4, 4]), (3, [2] * 10), (1, [1] * 20)])
def test_parts_that_do_not_fit_are_halved_and_every_row_is_worked_on_once(limit, sizes):
    done: list[tuple[int, list[int]]] = []

    def work(number, rows):
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append((number, rows.tolist()))

    by_parts(torch.arange(20), 8, work)
    assert [row for _, rows in done for row in rows] == list(range(20))
    assert [number for number, _ in done] == list(range(len(sizes)))
    assert [len(rows) for _, rows in done] == sizes


def test_a_row_that_does_not_fit_alone_and_other_errors_are_raised():
    def full(number, rows):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def broken(number, rows):
        raise RuntimeError("broken")

    with pytest.raises(MemoryError, match="CUDA out of memory"):
        by_parts(torch.arange(3), 2, full)
    with pytest.raises(RuntimeError, match="broken"):
        by_parts(torch.arange(3), 2, broken)


def test_nothing_is_no_part():
    by_parts(torch.arange(0), 4, lambda number, rows: pytest.fail("there is nothing to work on"))
