"""The corpus that comes with the repository: the file is the one its README describes, and the workflow finds it."""

import hashlib
from pathlib import Path

import pandas as pd
import yaml
from ocsrflow.corpus.filter import filter_corpus
from support.checkout import REPOSITORY, snakemake

RESOURCES = REPOSITORY / "workflow/resources"
CORPUS = RESOURCES / "public-molecules.tsv.gz"


def test_the_file_is_the_one_that_its_readme_describes() -> None:
    text = (RESOURCES / "README.md").read_text()
    assert hashlib.sha256(CORPUS.read_bytes()).hexdigest() in text
    for line in ("Rational Discovery LLC, Greg Landrum, and Julie Penzotti and others", "Copyright 2017 PandeLab"):
        assert line in text


def test_every_line_of_it_can_be_used(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("kept", "lengths", "rejects")}
    filter_corpus(CORPUS, max_length=1000, **places)
    assert pd.read_csv(places["rejects"]).empty
    assert len(pd.read_parquet(places["kept"], columns=["cid"])) == 283_036


def test_it_is_found_from_another_folder(tmp_path: Path) -> None:
    config = {
        "sources": [{"name": "public", "kind": "public", "max_length": 60}],
        "datasets": [{"name": "few", "source": "public", "size": 100}],
        "models": [{"name": "m", "dataset": "few", "gpus": 0, "network": {"encoder": "resnet18"}}],
        "test_sets": [{"name": "few", "dataset": "few"}],
        "ensembles": [],
        "speed": {"training": [], "ensembles": []},
    }
    (tmp_path / "public.yaml").write_text(yaml.safe_dump(config))
    files = ["--configfile", str(REPOSITORY / "config.yaml"), "public.yaml"]
    target = "results/corpus/public/kept.parquet"
    text = snakemake(tmp_path, "-n", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "1", *files, "--", target)
    assert "Keep the molecules of public with at most 60 characters" in text.stdout
    assert "Bring the molecules" not in text.stdout
