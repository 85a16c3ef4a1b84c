"""Pictures of one's own, read with trained models, from the command line or behind MLflow.

No stage but the one that registers models runs this; report and reader never import each other.
"""
