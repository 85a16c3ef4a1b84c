"""Molecules: download → filter → sample.

A new source is a kind in ``download`` and ``filter``; the draw and the split are decided in ``draw``.
"""
