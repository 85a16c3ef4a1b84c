"""Molecules as texts: parsing and canonical form, tokens, grammar, similarity, scores, tests of differences.

Every result depends on these definitions: change one only to change what is measured.
"""
