"""The network: encoders, decoder, recurrence, batches, beam search, reading with a trained model.

A new encoder is a recipe in ``encoders``. An edit of what a training runs trains the models again.
"""
