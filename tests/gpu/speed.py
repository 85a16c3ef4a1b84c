"""How fast a GPU learns and reads."""

import statistics
from collections.abc import Iterator

from ocsrflow.chem.tokenizer import VOCABULARY
from ocsrflow.config.reading import Reading
from ocsrflow.config.training import Training
from ocsrflow.evaluation.speed_prediction import speed_prediction
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.files import read_json, write_json
from ocsrflow.training.process_group import join
from plan import Plan, Row
from reading import random_model, throughput
from safetensors.torch import save_file
from training import measure

TALK_MODEL, TALK_ENSEMBLE = 0.0934, 0.1992  # seconds an image


def training_speed(encoder: str, plan: Plan) -> Iterator[Row]:
    """Images a second that an encoder and its decoder learn from: a batch in memory, and the packed file."""
    yield measure(encoder, Packed(plan.plain), plan.sizes.clock, join(plan.cores))


def reading_speed(plan: Plan) -> Iterator[Row]:
    """Images a second, many at once."""
    network, batch, rounds = plan.sizes.throughput
    yield from throughput(rounds, network, batch, plan.device)


def one_image(plan: Plan) -> Iterator[Row]:
    """Seconds an image, of each model alone and of all of them with their vote, by the stage ``speed_prediction``.

    The weights are random; texts have 40 tokens.
    """
    folders = [plan.work / "models" / name for name in plan.sizes.members]
    for folder, network in zip(folders, plan.sizes.members.values(), strict=True):
        folder.mkdir(parents=True)
        model = random_model(network, "cpu")
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "weights.safetensors"
        )
        facts = {"network": network.model_dump(), "training": Training().model_dump(), "vocabulary": VOCABULARY}
        write_json(folder / "model.json", {"name": folder.name, "key": folder.name, **facts})
    out = plan.work / "speed.json"
    speed_prediction(
        plan.plain,
        name="all",
        weights=[folder / "weights.safetensors" for folder in folders],
        descriptions=[folder / "model.json" for folder in folders],
        reading=Reading(),
        out=out,
        timed_images=plan.sizes.timed_images,
        gpus=1 if plan.device == "cuda" else 0,
        threads=min(2, plan.cores),
    )
    found = read_json(out)
    times = {member["name"]: member["seconds_per_image"] for member in found["members"]}
    for name, seconds in times.items():
        yield {"model": name, "seconds an image": seconds, "talk": TALK_MODEL}
    yield {"model": "mean", "seconds an image": statistics.fmean(times.values()), "talk": TALK_MODEL}
    for key in ("one_after_the_other", "side_by_side"):
        name = f"{len(times)} models, {key.replace('_', ' ')}"
        yield {"model": name, "seconds an image": found[key]["seconds_per_image"], "talk": TALK_ENSEMBLE}
