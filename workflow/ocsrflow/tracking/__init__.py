"""MLflow: store, runs, live curves of a training, registered models.

What is recorded decides no result: an edit here changes none.
"""
