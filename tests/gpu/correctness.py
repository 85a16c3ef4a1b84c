"""Whether a GPU computes what a CPU does."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from decoder import Batch, Plain, make, step
from ocsrflow.chem.tokenizer import VOCABULARY, decode
from ocsrflow.config.reading import Reading
from ocsrflow.config.training import Training
from ocsrflow.network import beam_search
from ocsrflow.network.batches import Epochs, Loader
from ocsrflow.network.decoder import Decoder, Steps
from ocsrflow.network.model import EncoderDecoder, copy_weights, load_model
from ocsrflow.network.model_reader import ModelReader
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.training.engine import Engine
from ocsrflow.training.process_group import ProcessGroup
from plan import SHIPPED, Plan, Row, reference
from torch import Tensor

LONGEST = 80  # tokens that the shipped model writes at most


def decoder_pass(plan: Plan) -> Iterator[Row]:
    """Loss and gradients of the decoder's hand-written pass, against the plain loop in float32."""
    torch.manual_seed(0)
    shape = plan.sizes.shape
    ours = Decoder(shape.channels, shape.dim, len(VOCABULARY), dropout=0.0, grid=shape.grid).to(plan.device)
    ways = {"plain": Plain(ours).to(plan.device), "hand-written": ours}
    made = make(shape)
    features = made.features.detach().to(plan.device).requires_grad_()
    batch = Batch(features, made.tokens.to(plan.device), made.targets.to(plan.device), made.lengths)

    def pass_of(name: str, dtype: torch.dtype) -> tuple[float, dict[str, Tensor]]:
        with torch.autocast(plan.device, dtype, enabled=dtype != torch.float32):
            loss = step(ways[name], batch)
        found = {key: value.grad for key, value in ours.named_parameters() if value.grad is not None}
        if isinstance(way := ways[name], Plain):  # PyTorch's cell has the LSTM's weights
            of_input = way.cell.weight_ih.grad
            assert of_input is not None
            found |= {"from_token.weight": of_input[:, : shape.dim], "from_context.weight": of_input[:, shape.dim :]}
            found |= {"from_token.bias": way.cell.bias_ih.grad, "from_state.weight": way.cell.weight_hh.grad}
        return loss, {"features": features.grad, **found}

    def error(found: Tensor, exact: Tensor) -> float:
        return float((found.double() - exact.double()).norm() / exact.double().norm())

    loss, exact = pass_of("plain", torch.float32)
    limit = 1e-3
    for name, dtype in (("hand-written", torch.float32), ("plain", torch.bfloat16), ("hand-written", torch.bfloat16)):
        other, gradients = pass_of(name, dtype)
        errors = {key: error(gradients[key], value) for key, value in exact.items()}
        worst, mean = max(errors, key=errors.__getitem__), statistics.fmean(errors.values())
        row = {"pass": name, "type": str(dtype).removeprefix("torch."), "loss": loss, "off by": abs(other - loss)}
        row |= {"error of gradients": mean, "largest": errors[worst], "of": worst}
        if name == "plain":
            limit = 1.5 * mean  # what rounding costs the plain pass, the other one may be off as well
            yield row
        else:
            yield row | {"ok": mean <= limit}


def training_steps(plan: Plan) -> Iterator[Row]:
    """The first steps of a training that goes on from the shipped model, against the CPU's losses in float32."""
    sizes = plan.sizes
    packed, network = Packed(plan.drawings), reference(sizes.frame).model_copy(update={"dropout": 0.0})
    SHIPPED.check(network, packed.split_into, packed.vocabulary)

    def losses(device: str, precision: str) -> list[float]:
        training = Training(batch=sizes.step_batch, encoder_lr=1e-4, decoder_lr=1e-4, precision=precision, ema=0.9)  # type: ignore[arg-type]
        model = EncoderDecoder(network, len(packed.vocabulary))
        copy_weights(model, SHIPPED.description, SHIPPED.weights)
        engine = Engine(model, training, ProcessGroup(0, 1, torch.device(device)), sizes.steps)
        engine.model.train()
        shares = list(islice(Epochs(packed, packed.members("train"), training.batch, seed=0).epoch(0), sizes.steps))
        loader = Loader(packed, (share.positions for share in shares), training.batch, workers=0, pin=False)
        parts = [engine.step(batch, share, at) for at, (batch, share) in enumerate(zip(loader, shares, strict=True))]
        return torch.stack(parts).tolist()

    expected = losses("cpu", "float32")
    for precision, products, limit in (
        ("float32", "highest", 0.005),
        ("float32", "high", 0.02),
        ("bfloat16", "high", 0.05),
    ):
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = products == "high"
        found = losses(plan.device, precision)
        off = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
        row = {"precision": f"{precision}{', TF32' * (precision == 'float32' and products == 'high')}"}
        row |= {"steps": len(found), "CPU's losses": f"{expected[0]:.4f} to {expected[-1]:.4f}"}
        yield row | {"losses": f"{found[0]:.4f} to {found[-1]:.4f}", "off by at most": f"{off:.2%}", "ok": off <= limit}


def reader_of(plan: Plan, device: str, precision: str) -> ModelReader:
    """The shipped model."""
    model, _ = load_model(SHIPPED.description, SHIPPED.weights, torch.device(device))
    return ModelReader(model, LONGEST, Reading(precision=precision), torch.device(device))  # type: ignore[arg-type]


def some_pictures(plan: Plan) -> Tensor:
    """Held-out pictures."""
    packed = Packed(plan.drawings)
    return torch.from_numpy(packed.pictures(packed.members("test")[: plan.sizes.pictures].tolist()))


def reading(plan: Plan) -> Iterator[Row]:
    """What the shipped model reads in held-out pictures, against the CPU's answers in float32."""
    pictures = some_pictures(plan)
    expected = [candidates[0] for candidates in reader_of(plan, "cpu", "float32").candidates(pictures)]
    for precision, least in (("float32", 0.95), ("bfloat16", 0.8)):
        reader = reader_of(plan, plan.device, precision)
        together = [candidates[0] for candidates in reader.candidates(pictures)]
        alone = [reader.candidates(picture[None])[0][0] for picture in pictures]
        pairs = list(zip(together, expected, strict=True))
        same = statistics.fmean(a.tokens == b.tokens for a, b in pairs)
        off = [abs(a.log_probability - b.log_probability) for a, b in pairs if a.tokens == b.tokens]
        row = {"precision": precision, "pictures": len(pictures), "the CPU's text": f"{same:.0%}"}
        row["log-probability off by"] = statistics.median(off) if off else math.nan
        row["alone as together"] = (
            f"{statistics.fmean(a.tokens == b.tokens for a, b in zip(alone, together, strict=True)):.0%}"
        )
        example = {"first picture": decode(together[0].tokens), "on the CPU": decode(expected[0].tokens)}
        yield row | example | {"ok": same >= least}


def graph_replay(plan: Plan) -> Iterator[Row]:
    """Beam search as it is, and with all its steps recorded as one CUDA graph that is replayed."""
    reader = reader_of(plan, plan.device, "bfloat16")
    for pictures in (some_pictures(plan)[:1], some_pictures(plan)):
        features = reader.encode(pictures)
        ways: dict[str, Callable[[], list[list[beam_search.Candidate]]]] = {
            "as it is": lambda features=features: reader.beam_search(features)  # type: ignore[misc]
        }
        if plan.device == "cuda":
            with torch.inference_mode(), reader.model.autocast():
                ways["replayed"] = _recorded(reader, features)
        texts, found = {}, {}
        for name, way in ways.items():
            times = []
            for _ in range(5):
                began = time.perf_counter()
                texts[name] = [candidates[0].tokens for candidates in way()]
                times.append(time.perf_counter() - began)
            found[name] = statistics.median(times[2:])
        for name, seconds in found.items():
            row = {"pictures": len(pictures), "search": name, "seconds": seconds}
            row["as fast"] = f"{found['as it is'] / seconds:.2f} ×"
            yield row | {"ok": texts[name] == texts["as it is"]}


def _recorded(reader: ModelReader, features: Tensor) -> Callable[[], list[list[beam_search.Candidate]]]:
    """All steps of a search as one graph: a step writes at a place of its own, so each is recorded by itself.

    It does not end before the longest text could, and no finished picture leaves.
    """
    beams, count, kind = reader.reading.beams, len(features), features.device.type
    steps = Steps(reader.model.decoder, features.clone(memory_format=torch.contiguous_format), beams)
    with torch.autocast(kind, enabled=False):
        texts = beam_search._Hypotheses(steps, LONGEST, beams, beam_search.Grammar(features.device))
        changing = [texts.h, texts.c, texts.score, texts.ended, texts.last, *(texts.state or ())]
        first = [value.clone() for value in changing]

        def restart() -> None:
            for value, before in zip(changing, first, strict=True):
                value.copy_(before)

        side = torch.cuda.Stream()  # libraries are set up outside the recording
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            texts._step(count, 0)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for at in range(LONGEST):
                texts._step(count, at)

    def replay() -> list[list[beam_search.Candidate]]:
        with torch.inference_mode(), torch.autocast(kind, enabled=False):
            restart()
            graph.replay()
            parts = (x.transpose(0, 1).tolist() for x in (texts.choices, texts.gains))
            return [texts._candidates(*of_picture) for of_picture in zip(*parts, strict=True)]

    return replay
