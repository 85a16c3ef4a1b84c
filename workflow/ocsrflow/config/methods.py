"""Names of the ways in which an ensemble finds its answer; functions: :mod:`ocsrflow.ensemble.voting_methods`."""

from typing import Literal

MethodName = Literal["pairs", "medoid", "votes", "rescored", "redrawn"]
