"""What single models read in a test set: predict → redraw, rescore.

The tables that these stages write are read by ``prediction_tables``.
"""
