"""What trainings and stages log, in processes of their own; it imports no more than that."""

from pathlib import Path

from ocsrflow.tracking.live_curves import LiveCurves
from ocsrflow.tracking.mlflow_runs import Identity, Run

from support.waiting import PATIENCE

STEPS = 60


def log_one(where: Path, number: int) -> None:
    """What a training and a stage log, in a process of their own."""
    curves = LiveCurves(where, key=f"key{number}", name=f"model{number}", parameters={"number": number})
    for step in range(STEPS):
        curves.point({"loss": 1.0 / (step + 1), "images_per_second": float(number)}, step)
    curves.close("FINISHED", patience=PATIENCE)
    opened = Run(where, Identity("prediction", f"score:{number}", f"score:{number}", f"scores of {number}"))
    opened.final({"tanimoto": number / 10})
    file = where.with_name(f"answers-{number}.csv")
    file.write_text(f"smiles\nC{'C' * number}\n")
    opened.file(file, "predictions")
    opened.close()
