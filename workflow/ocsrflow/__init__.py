"""Pictures of molecules to SMILES, from PubChem to the report; docs/README.md shows the way.

The folders in the order in which data flows, each importing only from those before it: runtime, config, chem, corpus,
depiction, pictures, network, tracking, training, prediction, ensemble, evaluation, and last reader and report.
"""
