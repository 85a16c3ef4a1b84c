"""Several models together: choose the members, vote, calibrate how far an answer is to be trusted.

A new way of voting is a function in ``voting_methods`` and a name in :mod:`ocsrflow.config.methods`.
"""
