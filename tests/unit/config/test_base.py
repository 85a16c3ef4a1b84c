"""What a stage is given on its command line is what the configuration says."""

import pytest
from ocsrflow.config.base import Settings
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.network import Network
from ocsrflow.config.reading import Reading
from ocsrflow.config.risk import Risk
from ocsrflow.config.split import Split
from ocsrflow.config.styles import Styles
from ocsrflow.config.training import Training
from ocsrflow.runtime.cli import command_line

SECTIONS: list[Settings] = [
    Depiction.model_validate({"styles": "varied"}),
    Depiction.model_validate({"line_width": [1.0, 3.0], "rotation": [-20.0, 20.0]}),
    Styles.model_validate({"size": [150, 700], "fonts": {"stix": 0.5}, "layouts": {"coordgen": 1}}),
    Training.model_validate({"risk": {}, "augmentation": {"share": 0.5, "rotation": 2}, "patience": 3}),
    Network(encoder="resnet18", pretrained="none", frozen_children=0, dim=16),
    Risk(steps=3),
    Reading(beams=2, grammar=False),
    Split(seed=3, validation=0.1, test=0.2),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: type(section).__name__)
def test_a_section_arrives_whole(section: Settings) -> None:
    """Ranges with both ends, mappings with all keys: cyclopts' own reading kept the lower end of a range alone."""
    received: list[object] = []

    def stage(numbers: list[int], *, given: type(section), other: type(section) | None = None) -> None:  # type: ignore[valid-type]
        received.extend((numbers, given, other))

    text = section.model_dump_json()
    command_line(stage, "stage")(["1", "2", "--given", text, "--other", text])
    assert received == [[1, 2], section, section]
    command_line(stage, "stage")(["3", "--given", text])
    assert received[3:] == [[3], section, None]
