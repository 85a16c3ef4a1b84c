"""Names of the ways in which an ensemble finds its answer, which :mod:`ocsrflow.voting` has functions for."""

from typing import Literal

MethodName = Literal["pairs", "medoid", "votes", "rescored", "redrawn"]
