"""Molecules: download → filter → sample.

A new source is a kind in ``download`` and ``filter``; which molecules a data set takes is decided in
``sampler``, and their split in :mod:`ocsrflow.chem.split`.
"""
