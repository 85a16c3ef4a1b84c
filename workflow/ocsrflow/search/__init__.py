"""Search for a model's settings by successive halving: trials of a rung are trained, the better ones go on.

A trial's settings follow from its number alone; how it is trained is the stage ``train`` and nothing else. No module
here reads a test set.
"""
