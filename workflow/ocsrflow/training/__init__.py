"""Training under torchrun: launch, loop, optimiser step, processes, augmentation, checkpoints, validation.

An edit of code that ``train`` runs starts every training afresh; comments, docstrings and messages do not count.
"""
