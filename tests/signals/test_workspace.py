"""Chunks of float64 copies: every tensor once, in order, right values."""

import torch

from isometry.signals.workspace import CHUNK, WHOLE, Workspace, runs


def test_consecutive_equal_shapes_make_a_run_and_a_large_tensor_is_alone():
    shapes = [
        torch.Size(s) for s in ((2, 3), (2, 3), (2, 5), (2, 3), (WHOLE + 1, 1), (WHOLE + 1, 1))
    ]
    assert [list(r) for r in runs(tuple(shapes))] == [[0, 1], [2], [3], [4], [5]]
    assert [list(r) for r in runs(tuple(shapes[:2]), ("a", "b"))] == [[0], [1]]


def test_a_run_is_cut_to_what_stays_in_the_cache():
    shapes = (torch.Size([WHOLE]),) * 9
    assert max(len(r) for r in runs(shapes)) * WHOLE <= CHUNK
    assert [i for r in runs(shapes) for i in r] == list(range(9))


def test_map_keeps_the_order_and_the_values():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3), (2, 5), (2, 3), (70_000, 2), (2, 5), (2, 3)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    workspace = Workspace(torch.device("cpu"))
    for _ in range(2):  # the second time in memory that is there
        result = workspace.map(tensors, lambda block: block.flatten(1).sum(1, dtype=torch.float64))
        torch.testing.assert_close(
            result, torch.stack([t.double().sum() for t in tensors]), rtol=1e-12, atol=1e-12
        )
    assert workspace.map([], torch.clone).shape == (0,)


def test_memory_does_not_grow_with_the_number_of_tensors():
    workspace = Workspace(torch.device("cpu"))
    workspace.map([torch.ones(WHOLE) for _ in range(40)], lambda block: block.sum(1))
    assert all(page.numel() <= CHUNK for page in workspace._pages.values())
