"""Pictures of molecules, from drawing to what a network reads.

Whatever changes a pixel here changes what trained models see: pictures for training and for reading take the same way.
"""
