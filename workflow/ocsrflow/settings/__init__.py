"""Settings that a stage receives whole, one small module for each.

They are apart from :mod:`ocsrflow.config`, which composes them, so that an edit of one of them (or of the
configuration's other parts) runs only those stages again that use it.
"""
