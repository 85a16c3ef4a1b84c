"""How good and how fast: scores, baselines, speed studies, comparison of two runs.

The definitions of the scores are in :mod:`ocsrflow.chem.scores`; an edit here reads and trains nothing again.
"""
