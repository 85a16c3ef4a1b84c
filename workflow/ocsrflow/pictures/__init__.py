"""Pictures of data sets: render → pack; sets from elsewhere and in other drawings; the packed file.

Every picture from elsewhere passes ``normalise``, whether a model learns from it or reads it.
"""
