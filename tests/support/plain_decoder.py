"""The decoder written the plain way: one text, one step after the other, nothing shared."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from ocsrflow.chem.tokenizer import START
from ocsrflow.network.decoder import Decoder
from torch import Tensor


def plain_decoder(decoder: Decoder, features: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Scores after the start and after each token of a text, (tokens + 1, vocabulary), and the attention of each step.

    ``features`` are (encoder cells, channels) of one picture; attention is (tokens + 1, grid, grid).
    """
    own = math.isqrt(len(features))
    pooled = F.adaptive_avg_pool2d(features.t().unflatten(1, (own, own)), decoder.grid)
    features = pooled.flatten(1).t()
    h, c = decoder.first_state(features.mean(0)).chunk(2)
    scores, looked = [], []
    for token in [START, *tokens]:
        weights = decoder.score(F.relu(decoder.picture_score(features) + decoder.state_score(h)))[:, 0].softmax(dim=0)
        context = torch.sigmoid(decoder.gate(h)) * (weights @ features)
        embedded = decoder.embedding(torch.tensor(token))
        i, f, g, o = (decoder.from_token(embedded) + decoder.from_context(context) + decoder.from_state(h)).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        scores.append(decoder.output(h))
        looked.append(weights.view(decoder.grid, decoder.grid))
    return torch.stack(scores), torch.stack(looked)
