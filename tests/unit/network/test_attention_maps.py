"""Attention pictures: a panel for each token, orange where the decoder looked, the picture as it was elsewhere."""

import numpy as np
import pytest
from numpy.typing import NDArray
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw
from ocsrflow.network.attention_maps import COLUMNS, draw_attention
from rdkit import Chem

COLOUR = Depiction(size=96)


def looked_at(tokens: int, grid: int = 6) -> NDArray[np.float32]:
    """All attention of a token in one cell, the next cell for the next token."""
    attention = np.zeros((tokens + 1, grid * grid), np.float32)
    attention[np.arange(tokens + 1), np.arange(tokens + 1) % (grid * grid)] = 1
    return attention.reshape(-1, grid, grid)


def orange(image: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (image[..., 0] - image[..., 2] > 60) & (image[..., 0] > 150)


def test_the_orange_is_where_the_decoder_looked() -> None:
    white = np.full((96, 96, 3), 255, np.uint8)
    attention = np.zeros((4, 6, 6), np.float32)
    attention[0, 0, 0] = attention[1, 0, 5] = attention[2, 5, 0] = attention[3, 5, 5] = 1
    image = np.asarray(draw_attention(white, list("CCO"), attention).convert("RGB")).astype(np.int64)
    rows, columns = np.nonzero(orange(image))
    width = image.shape[1] // 4  # as many panels as there are labels
    centres = [(columns[columns // width == panel].mean() / width) % 1 for panel in range(4)]
    assert centres == pytest.approx([0.1, 0.9, 0.1, 0.9], abs=0.1)
    upper, lower = (rows[np.isin(columns // width, panels)].mean() for panels in ((0, 1), (2, 3)))
    assert lower - upper > 0.6 * width


def test_attention_that_is_spread_out_is_paler_than_attention_on_one_cell() -> None:
    white = np.full((96, 96, 1), 255, np.uint8)
    attention = looked_at(3)
    attention[1] = 1 / 36
    image = np.asarray(draw_attention(white, list("CCO"), attention).convert("RGB")).astype(np.int64)
    width = image.shape[1] // 4
    strongest = [(image[..., 0] - image[..., 2])[:, at * width : (at + 1) * width].max() for at in range(4)]
    assert strongest[1] < 0.2 * strongest[0]
    assert strongest[2] == pytest.approx(strongest[0], rel=0.1)


@pytest.mark.parametrize("tokens", [0, 1, COLUMNS, 100])
def test_any_number_of_tokens_has_its_panels(tokens: int) -> None:
    picture = draw(Chem.MolFromSmiles("CCO"), COLOUR)
    image = draw_attention(
        picture, ["C"] * tokens, looked_at(tokens), title="$x_1$.png", probabilities=[0.5] * (tokens + 1)
    )
    rows = -(-(tokens + 1) // COLUMNS)
    assert rows * 150 < image.height < rows * 200 + 200
    pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(axis=-1) < 80)  # the drawing's oxygen, its colour kept
    assert red.sum() > 5 * (tokens + 1)


def test_blue_and_red_are_put_right() -> None:
    picture = draw(Chem.MolFromSmiles("CCO"), Depiction(size=96, channel_order="bgr"))
    image = np.asarray(draw_attention(picture, ["C"], looked_at(1), channel_order="bgr").convert("RGB")).astype(int)
    assert ((image[..., 0] > 200) & (image[..., 1:].max(axis=-1) < 80)).sum() > 10


def test_a_map_for_each_token_and_the_end_is_asked_for() -> None:
    with pytest.raises(ValueError, match="3 maps for 3 tokens and the end"):
        draw_attention(np.full((96, 96, 1), 255, np.uint8), list("CCO"), looked_at(2))
