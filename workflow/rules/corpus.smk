# Molecules: download → filter → sample.


rule download:
    input:
        code=modules("download"),
    output:
        "<results>/corpus/{source}/CID-SMILES.gz",
    log:
        "<logs>/download/{source}.log",
    benchmark:
        "<benchmarks>/download/{source}.tsv"
    conda:
        CONDA["chem"]
    params:
        source=lambda wildcards: source_options(SOURCES[wildcards.source]),
    message:
        "Bring the molecules of {wildcards.source} here"
    shell:
        "python -m ocsrflow.download {params.source:q} --out {output:q} 2>&1 | tee {log:q}"


rule filter:
    input:
        corpus=raw_corpus,
        pictures=lambda wildcards: supplied_pictures(SOURCES[wildcards.source]),
        code=modules("filter"),
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
        source_size=source_size,
        record=lambda wildcards: f"{CONFIG.results}/corpus/{wildcards.source}/source.json",
        max_length=lambda wildcards: SOURCES[wildcards.source].max_length,
        pictures=lambda wildcards: pictures_options(SOURCES[wildcards.source]),
    message:
        "Keep the molecules of {wildcards.source} with at most {params.max_length} characters"
    shell:
        "python -m ocsrflow.filter {input.corpus:q} --max-length {params.max_length} {params.pictures:q} "
        "--threads {threads} --record {params.record:q} --kept {output.kept:q} --lengths {output.lengths:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule sample:
    input:
        kept=lambda wildcards: f"{CONFIG.results}/corpus/{DATASETS[wildcards.dataset].source}/kept.parquet",
        code=modules("sample"),
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
        draw=draw_options,
        validation=CONFIG.split.validation,
        test=CONFIG.split.test,
        split_seed=CONFIG.split.seed,
    message:
        "Draw the molecules of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow.sample {input.kept:q} {params.draw:q} --validation {params.validation} "
        "--test {params.test} --split-seed {params.split_seed} --processes {threads} --out {output.sample:q} "
        "--lengths {output.lengths:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"
