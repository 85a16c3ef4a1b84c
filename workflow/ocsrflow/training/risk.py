"""Minimum-risk training: the loss is the expected error over the network's own texts.

Shen et al. 2016, "Minimum Risk Training for Neural Machine Translation" (ACL, arXiv 1512.02433); for pictures of
molecules COMO 2026 (arXiv 2604.23546).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..chem.tokenizer import END, decode
from ..config.risk import Risk
from ..config.training import Training
from ..network.batches import Batch, Share, in_steps
from ..network.beam_search import Candidate, search
from ..network.decoder import Decoder
from ..network.model import EncoderDecoder
from .engine import augmented
from .process_group import ProcessGroup
from .rewards import Rewards

LARGEST_NORM = 1.0  # of the gradient
LAST_RATE = 0.05  # share of the first learning rate

Tokens = Sequence[int]  # of a text, without start and end


def expected_error(log_probabilities: Tensor, rewards: Tensor, alpha: float) -> Tensor:
    r"""The risk of every picture (Shen et al. 2016).

    For a picture x with candidates Y it is Σ Q(y) · (1 - reward(y)), with Q(y) = p(y|x)^α / Σ p(y'|x)^α, sums over Y.

    Parameters
    ----------
    log_probabilities
        (pictures, candidates): natural logarithms of p(y|x); minus infinity where a picture has fewer candidates.
    rewards
        (pictures, candidates), in [0, 1].
    alpha
        Sharpness of Q.

    Returns
    -------
    (pictures,), in [0, 1].
    """
    return ((alpha * log_probabilities).softmax(dim=1) * (1 - rewards)).sum(dim=1)


def distinct(right: Tokens, found: Sequence[Candidate]) -> dict[str, Tokens]:
    """A picture's candidates, by their text: the right one first, then those of the beam search, each text once."""
    candidates = {decode(right): right}
    for candidate in found:
        candidates.setdefault(decode(candidate.tokens), candidate.tokens)
    return candidates


def log_probabilities(decoder: Decoder, features: Tensor, texts: Sequence[Sequence[Tokens]]) -> Tensor:
    """How likely the decoder finds given texts, with gradients (``beam_search.likelihood`` has none).

    Parameters
    ----------
    decoder
        In evaluation mode.
    features
        (pictures, encoder cells, channels).
    texts
        For each picture one text or more.

    Returns
    -------
    (pictures, most texts of a picture): natural logarithms of the texts' probabilities, with their ends; minus infinity
    where a picture has fewer texts.
    """
    device = features.device
    where = torch.tensor([(i, j) for i, own in enumerate(texts) for j in range(len(own))])
    order, tokens, steps, targets = in_steps([text for own in texts for text in own])
    picture, column = where[order].to(device).unbind(dim=1)
    scores, _ = decoder(features, torch.from_numpy(tokens).to(device), steps, picture)
    gains = -F.cross_entropy(scores.float(), torch.from_numpy(targets).to(device), reduction="none")
    summed = pad_packed_sequence(PackedSequence(gains, torch.tensor(steps)), batch_first=True)[0].sum(dim=1)
    found = summed.new_full((len(texts), max(map(len, texts))), -torch.inf)
    return found.index_put((picture, column), summed)


class RiskEngine:
    """Network, optimiser and schedule of minimum-risk training, and what a step does with them.

    In place of :class:`ocsrflow.training.engine.Engine`, of whose optimiser and averages nothing is taken over.
    """

    def __init__(self, model: EncoderDecoder, training: Training, risk: Risk, group: ProcessGroup) -> None:
        """Begin with the network as it is.

        Parameters
        ----------
        model
            The network, on this process's device, the same in all processes; put into evaluation mode.
        training
            How it was trained before; augmentation and longest text remain.
        risk
            How it is trained now.
        group
            This process among the others.
        """
        self.model, self.training, self.risk, self.group = model.eval(), training, risk, group
        self.parameters = [value for value in model.parameters() if value.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=risk.lr, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: 1 - (1 - LAST_RATE) * step / risk.steps
        )

    @property
    def evaluated(self) -> EncoderDecoder:
        """The network that is validated and kept."""
        return self.model

    def step(self, batch: Batch, share: Share, number: int, rewards: Rewards) -> Tensor:
        """One optimiser step.

        The loss is the mean over pictures of the risk (:func:`expected_error`) and, times its weight, the
        cross-entropy a token of the right text.

        Parameters
        ----------
        batch, share, number
            As in :meth:`ocsrflow.training.engine.Engine.step`.
        rewards
            Processes that work out what texts are worth.

        Returns
        -------
        (3,), this process's parts of the means over the pictures of all processes: risk, cross-entropy a token of the
        right text in nats, reward of the likeliest text of the beam search. The parts of all processes add up.
        """
        risk, group, model = self.risk, self.group, self.model
        right = [[token for token in row if token > END] for row in batch.tokens.tolist()]
        pictures = augmented(batch.pictures.to(group.device, non_blocking=True), self.training, number, group)
        with model.autocast():
            features = model.encoder(pictures)
        # In a block of its own: weights that autocast has cast without gradients would be used again by the next pass.
        with model.autocast():
            longest = self.training.decode_length
            found = search(model.decoder, features.detach(), longest, beams=risk.candidates, grammar=True)
        candidates = [distinct(*each) for each in zip(right, found, strict=True)]
        waiting = rewards.schedule([(text, next(iter(own))) for own in candidates for text in own])
        with model.autocast():
            likelihoods = log_probabilities(model.decoder, features, [list(own.values()) for own in candidates])
        worth = [{text: next(waiting) for text in own} for own in candidates]  # meanwhile worked out

        table = likelihoods.new_zeros(likelihoods.shape, device="cpu")
        for row, own in zip(table, worth, strict=True):
            row[: len(own)] = torch.tensor(list(own.values()))
        risks = expected_error(likelihoods, table.to(group.device), risk.alpha)
        entropies = -likelihoods[:, 0] / torch.tensor([len(text) + 1 for text in right], device=group.device)
        best = [own[decode(texts[0].tokens)] for own, texts in zip(worth, found, strict=True)]
        self._update((risks + risk.cross_entropy_weight * entropies).sum() / share.pictures)
        sums = [risks.detach().sum(), entropies.detach().sum(), risks.new_tensor(sum(best))]
        return torch.stack(sums) / share.pictures

    def _update(self, loss: Tensor) -> None:
        """Move the weights against the gradient of all processes' losses together."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [value.grad for value in self.parameters if value.grad is not None]
        if self.group.world_size > 1:
            flat = self.group.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, summed in zip(gradients, parts, strict=True):
                gradient.copy_(summed.view_as(gradient))
        torch.nn.utils.clip_grad_norm_(self.parameters, LARGEST_NORM)
        self.optimiser.step()
        self.schedule.step()

    def state(self) -> dict[str, Any]:
        """Everything a later training needs to go on from here."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
