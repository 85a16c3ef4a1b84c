# Molecules: download → filter → sample.


rule download:
    output:
        # Snakemake keeps the old file until the new one is whole, and puts it back where that fails.
        update("<results>/corpus/{source}/CID-SMILES.gz"),
    log:
        "<logs>/download/{source}.log",
    benchmark:
        "<benchmarks>/download/{source}.tsv"
    conda:
        CONDA["chem"]
    params:
        source=plan.source_options,
    message:
        "Bring the molecules of {wildcards.source} here"
    shell:
        "python -m ocsrflow download {params.source:q} --out {output:q} > {log:q} 2>&1"


rule filter:
    input:
        corpus=raw_corpus,
        pictures=plan.supplied_pictures,
    output:
        kept="<results>/corpus/{source}/kept.parquet",
        lengths="<results>/corpus/{source}/lengths.csv",
        rejects="<results>/corpus/{source}/rejects.csv",
    log:
        "<logs>/filter/{source}.log",
    benchmark:
        "<benchmarks>/filter/{source}.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        code=code_version("corpus.filter"),
        source_size=plan.source_size,
        record=fill_paths("<results>/corpus/{source}/source.json"),
        max_length=lambda wildcards: plan.sources[wildcards.source].max_length,
        pictures=plan.pictures_options,
    message:
        "Keep the molecules of {wildcards.source} with at most {params.max_length} characters"
    shell:
        "python -m ocsrflow filter {input.corpus:q} --max-length {params.max_length} {params.pictures:q} "
        "--threads {threads} --record {params.record:q} --kept {output.kept:q} "
        "--lengths {output.lengths:q} --rejects {output.rejects:q} > {log:q} 2>&1"


rule sample:
    input:
        kept=plan.of_source("kept.parquet"),
    output:
        sample="<results>/datasets/{dataset}/sample.parquet",
        lengths="<results>/datasets/{dataset}/lengths.csv",
        rejects="<results>/datasets/{dataset}/rejects/sample.csv",
    log:
        "<logs>/sample/{dataset}.log",
    benchmark:
        "<benchmarks>/sample/{dataset}.tsv"
    conda:
        CONDA["chem"]
    threads: 8
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        code=code_version("corpus.sample"),
        options=plan.sample_options,
        validation=CONFIG.split.validation,
        test=CONFIG.split.test,
        split_seed=CONFIG.split.seed,
    message:
        "Sample the molecules of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow sample {input.kept:q} {params.options:q} --validation {params.validation} "
        "--test {params.test} --split-seed {params.split_seed} --processes {threads} --out {output.sample:q} "
        "--lengths {output.lengths:q} --rejects {output.rejects:q} > {log:q} 2>&1"
