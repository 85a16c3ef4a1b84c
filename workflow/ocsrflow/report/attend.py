"""Stage ``attend``: where a trained model looked while it wrote some of its answers."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..chem.tokenizer import encode, tokenize
from ..config.reading import Reading
from ..network.attention_maps import draw_attention
from ..network.model import load_model
from ..network.model_reader import ModelReader
from ..pictures.packed_file import Packed
from ..runtime.files import whole
from .html import small_png

MOST_TOKENS = 31  # of an answer that is shown: four rows of panels with the end


def attend(
    data: Path,
    *,
    weights: Path,
    description: Path,
    predictions: Path,
    scores: Path,
    out: Path,
    size: int = 3,
    threads: int = 1,
) -> None:
    """Draw the attention of a model over some pictures of a test set: longest right answers, and a wrong one.

    On the CPU: it is a matter of a few pictures.

    Parameters
    ----------
    data
        Packed data set.
    weights, description
        What the stage ``train`` wrote.
    predictions, scores
        Parquet files of the stages ``predict`` and ``score``.
    out
        Parquet file, a row a picture: cid, prediction, exact, tanimoto, png (bytes of the drawing: a panel for each
        token and the end).
    size
        At most so many pictures.
    threads
        Threads.
    """
    torch.set_num_threads(threads)
    packed = Packed(data)
    device = torch.device("cpu")
    model, model_facts = load_model(description, weights, device)
    packed.expect_vocabulary(model_facts["vocabulary"], weights)
    model_reader = ModelReader(model.eval(), int(model_facts["training"]["decode_length"]), Reading(), device)
    table = pd.read_parquet(predictions, columns=["cid", "prediction", "token_probabilities"])
    chosen = choose_answers(table.merge(pd.read_parquet(scores, columns=["cid", "exact", "tanimoto"]), on="cid"), size)
    rows = []
    row: Any
    for row, at in zip(chosen.itertuples(), packed.positions(chosen["cid"]), strict=True):
        picture = packed.picture(at)
        image = draw_attention(
            picture,
            tokenize(row.prediction),
            model_reader.attention(picture, row.prediction),
            title=f"CID {row.cid}, read by {model_facts['name']}, with the probability of each token",
            probabilities=row.token_probabilities,
            channel_order=packed.depiction.channel_order,
        )
        rows.append((row.cid, row.prediction, row.exact, row.tanimoto, small_png(image, 64)))
    with whole(out) as part:
        pd.DataFrame(rows, columns=["cid", "prediction", "exact", "tanimoto", "png"]).to_parquet(part, index=False)
    print(f"{model_facts['name']}: attention over {len(rows)} pictures")


def choose_answers(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """Right answers with most tokens, and last a wrong one of middling similarity, where there are any.

    Parameters
    ----------
    rows
        With the columns cid, prediction, exact, tanimoto.
    size
        How many.
    """
    lengths = rows["prediction"].map(_tokens)
    rows = rows.assign(tokens=lengths)[lengths.between(1, MOST_TOKENS)]
    right = rows[rows["exact"]].sort_values(["tokens", "cid"], ascending=[False, True])
    wrong = rows[~rows["exact"]].sort_values(["tanimoto", "cid"])
    middle = wrong.iloc[len(wrong) // 2 :]
    n_wrong = min(len(middle), max(1, size - len(right))) if size else 0
    return pd.concat([right.head(size - n_wrong), middle.head(n_wrong)])


def _tokens(text: str) -> int:
    """How many; 0 for what is no text of the vocabulary."""
    try:
        return len(encode(text))
    except ValueError:
        return 0
