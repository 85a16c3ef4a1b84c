"""How a network is trained: what it starts from, its steps, phases, checkpoints and validations.

Whoever wants another loss, phase or start of a training changes it here; the network itself stands in ``network``.
"""
