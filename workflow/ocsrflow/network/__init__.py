"""The network: encoders, decoder and what they compute with.

Whoever wants another encoder, decoder or precision changes it here; how a network is trained stands in ``training``.
"""
