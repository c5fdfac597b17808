"""Padded convolutions, those of Dopamine's networks."""

import pytest
import torch
from torch import nn

from q2pi.networks.torsos import ImageTorso, PaddedConvolution


def test_dopamines_network_has_its_published_size() -> None:
    """Padding keeps 84 / 4 = 21, ceil(21 / 2) = 11 and 11 rows: 11 * 11 * 64 = 7,744 features enter the layer."""
    torso = ImageTorso(4, 84, 84, network="dopamine")
    assert (
        sum(parameter.numel() for parameter in torso.parameters())
        == 32 * 257 + 64 * 513 + 64 * 577 + 512 * 7745
        == 4_043_424
    )
    image, sides = torch.zeros(1, 4, 84, 84), []
    for layer in torso.convolutions:
        image = layer(image)
        sides += [image.shape[2]] if isinstance(layer, nn.Conv2d) else []
    assert sides == [21, 11, 11]


def test_an_odd_row_of_padding_is_below_and_an_odd_column_on_the_right() -> None:
    """A kernel of 4 with stride 2 on 5 x 5 pixels needs 3 rows of padding: 1 above, 2 below.

    The windows then cover the rows -1..2, 1..4 and 3..6: row 0 is in the first only, row 4 in the last two.
    """
    layer = PaddedConvolution(1, 1, 4, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.zeros(2, 1, 5, 5)
    image[0, 0, 0, 0] = image[1, 0, 4, 4] = 1.0
    expected = torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 1], [0, 1, 1]]])
    torch.testing.assert_close(layer(image)[:, 0], expected)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(84, 8, 4), (21, 4, 2), (11, 3, 1), (3, 1, 2)])
def test_a_padded_convolution_equals_one_of_a_padded_image(side: int, kernel: int, stride: int) -> None:
    """A slow oracle: each output is the sum over its window, which begins at index * stride - padding before."""
    layer, image = PaddedConvolution(2, 3, kernel, stride=stride), torch.randn(1, 2, side, side)
    found, outputs = layer(image)[0], -(-side // stride)
    before = max((outputs - 1) * stride + kernel - side, 0) // 2
    larger = torch.zeros(2, side + 4 * kernel, side + 4 * kernel)
    larger[:, 2 * kernel : 2 * kernel + side, 2 * kernel : 2 * kernel + side] = image[0]
    assert found.shape == (3, outputs, outputs)
    for row, column in ((0, 0), (outputs - 1, 0), (outputs // 2, outputs - 1), (outputs - 1, outputs - 1)):
        top, left = (2 * kernel + index * stride - before for index in (row, column))
        window = larger[:, top : top + kernel, left : left + kernel]
        expected = (layer.weight * window).sum(dim=(1, 2, 3)) + layer.bias
        torch.testing.assert_close(found[:, row, column], expected, rtol=1e-4, atol=1e-5)
