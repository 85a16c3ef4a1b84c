"""ocsrflow: optical chemical structure recognition as a reproducible Snakemake workflow."""
