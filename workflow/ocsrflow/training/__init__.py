"""Training under torchrun: launch, loop, optimiser step, processes, augmentation, checkpoints, validation.

An edit of what decides the weights (``DEFINING`` in ``train``) starts every training afresh.
"""
