"""Molecules to pictures: drawn in one style or in many, brought to the frame, kept in files.

Nothing here knows of networks. What decides a pixel is in this folder, but for the settings in ``settings/``.
"""
