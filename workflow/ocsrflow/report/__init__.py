"""The report and the pages of data sets: figures, gallery, attention maps, templates.

An edit here writes pages again and computes nothing else.
"""
