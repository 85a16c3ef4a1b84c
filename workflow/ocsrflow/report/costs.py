"""What each stage of a run took, from the files that Snakemake's ``benchmark:`` writes, one a job."""

from pathlib import Path
from typing import Any

import pandas as pd

# Stages in the order of the workflow; others come after them.
ORDER = (
    "download", "filter", "sample", "render", "pack", "browse", "benchmark_set", "draw_set", "weights", "train",
    "trial", "predict", "redraw", "choose", "rescore", "vote", "constant", "osra", "calibrate", "score", "attend",
    "speed_training", "speed_prediction", "report",
)  # fmt: skip


COLUMNS = ("s", "cpu_time", "max_rss", "io_out")


def costs(folder: Path, gpu_seconds: dict[str, float] | None = None) -> pd.DataFrame:
    """Run time and cost of the stages.

    Parameters
    ----------
    folder
        Of the benchmark files, STAGE.tsv and STAGE/JOB.tsv.
    gpu_seconds
        Of a stage, what its jobs held GPUs for, added up; stages that held none may be left out.

    Returns
    -------
    A row a stage: ``stage``, ``jobs``, ``minutes`` (wall time, added up), ``longest_minutes`` (of one job),
    ``core_hours`` (CPU time), ``gpu_hours``, ``memory_mb`` (most resident memory of one job, in MiB), ``written_mb``
    (MiB, added up). Snakemake looks at processes every 30 s (at first every few seconds): what a short job took besides
    wall time is NaN where it was not seen. Jobs of earlier runs whose results still stand are counted too.
    """
    rows = [_row(path, folder) for path in sorted(folder.rglob("*.tsv"))]
    table = pd.DataFrame([row for row in rows if row])
    if table.empty:
        return table
    for column in COLUMNS:
        table[column] = pd.to_numeric(table[column], errors="coerce")
    grouped = table.groupby("stage")
    found = pd.DataFrame(
        {
            "jobs": grouped.size(),
            "minutes": grouped["s"].sum() / 60,
            "longest_minutes": grouped["s"].max() / 60,
            "core_hours": grouped["cpu_time"].sum(min_count=1) / 3600,
            "memory_mb": grouped["max_rss"].max(),
            "written_mb": grouped["io_out"].sum(min_count=1),
        }
    ).reset_index()
    found["gpu_hours"] = found["stage"].map(gpu_seconds or {}).fillna(0.0).astype(float) / 3600
    rank = {name: at for at, name in enumerate(ORDER)}
    return found.sort_values("stage", key=lambda s: s.map(rank).fillna(len(rank)), ignore_index=True)


def _row(path: Path, folder: Path) -> dict[str, Any] | None:
    """The last line of a job's file; None where it is damaged."""
    stage = path.relative_to(folder).parts[0].removesuffix(".tsv")
    try:
        table = pd.read_csv(path, sep="\t", na_values=["NA", "-"])
        last = table.iloc[-1]
        return {"stage": stage} | {column: last[column] for column in COLUMNS}
    except (ValueError, KeyError, IndexError):  # of a job that was killed as it wrote
        return None
