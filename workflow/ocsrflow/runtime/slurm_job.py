"""What job of a cluster a stage runs as, for the record."""

import os
from collections.abc import Mapping
from typing import Any


def of_cluster() -> dict[str, str]:
    """The SLURM job that this process belongs to, ``slurm_job``, in SLURM's own notation; nothing elsewhere."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID")
    if array:
        return {"slurm_job": f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '?')}"}
    return {"slurm_job": number} if number else {}


def as_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """The same as tags of an MLflow run, of what a stage wrote down of itself."""
    return {"slurm.job": str(facts["slurm_job"])} if "slurm_job" in facts else {}
