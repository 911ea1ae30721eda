"""Random changes of a batch of images, batched on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

Augment = Callable[[Tensor, Generator], Tensor]

PADDING = 4


def crop_flip(images: Tensor, generator: Generator) -> Tensor:
    """A random crop of the image padded by 4 black pixels, mirrored half of the time (He et al.
    2016, sec. 4.2).

    Args:
        images: uint8 [B, C, H, W].
        generator: on the CPU, so that every device draws the same.
    """
    batch, _, height, width = images.shape
    top, left = torch.randint(0, 2 * PADDING + 1, (2, batch), generator=generator).to(images.device)
    mirrored = torch.rand(batch, generator=generator).lt(0.5).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    straight = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(mirrored[:, None], straight.flip(0), straight)
    padded = F.pad(images, (PADDING,) * 4)
    example = torch.arange(batch, device=images.device)
    return (
        padded[example[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )


AUGMENTATIONS: dict[str, Augment | None] = {"none": None, "crop_flip": crop_flip}
