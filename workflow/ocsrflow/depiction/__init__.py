"""How one molecule is drawn: RDKit's plain depiction, and styles as they are found in print.

A new style is a setting in :mod:`ocsrflow.config.styles` and what draws it here; all pictures are drawn anew.
"""
