# Pictures: render (scattered over shards) → pack.


rule render:
    input:
        sample="<results>/datasets/{dataset}/sample.parquet",
        pictures=lambda wildcards: supplied_pictures(SOURCES[DATASETS[wildcards.dataset].source]),
        code=modules("render"),
    output:
        shard="<results>/datasets/{dataset}/shards/{shard}.h5",
        rejects="<results>/datasets/{dataset}/rejects/render-{shard}.csv",
    log:
        "<logs>/render/{dataset}-{shard}.log",
    benchmark:
        "<benchmarks>/render/{dataset}-{shard}.tsv"
    conda:
        "../../envs/chem.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        shards=shard_count,
        depiction=CONFIG.depiction.model_dump_json(),
        pictures=lambda wildcards, input: ["--pictures", input.pictures] if input.get("pictures") else [],
    message:
        "Draw shard {wildcards.shard} of {params.shards} of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow.render {input.sample:q} --shard {wildcards.shard} --shards {params.shards} "
        "--depiction {params.depiction:q} {params.pictures:q} --out {output.shard:q} "
        "--rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule pack:
    input:
        sample="<results>/datasets/{dataset}/sample.parquet",
        shards=lambda wildcards: [
            f"{CONFIG.results}/datasets/{wildcards.dataset}/shards/{shard}.h5"
            for shard in range(shard_count(wildcards))
        ],
        code=modules("pack"),
    output:
        images="<results>/datasets/{dataset}/images.h5",
        tokens="<results>/datasets/{dataset}/tokens.json",
        vocabulary="<results>/datasets/{dataset}/vocabulary.json",
        rejects="<results>/datasets/{dataset}/rejects/pack.csv",
    log:
        "<logs>/pack/{dataset}.log",
    benchmark:
        "<benchmarks>/pack/{dataset}.tsv"
    conda:
        "../../envs/chem.yaml"
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        # One path and a count: the paths of thousands of shards would not fit on a command line.
        folder=lambda wildcards: f"{CONFIG.results}/datasets/{wildcards.dataset}/shards",
        rejects=lambda wildcards: f"{CONFIG.results}/datasets/{wildcards.dataset}/rejects",
        shards=shard_count,
    message:
        "Pack the pictures and tokens of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow.pack {input.sample:q} {params.folder:q} --shards {params.shards} "
        "--render-rejects {params.rejects:q} --out {output.images:q} --tokens {output.tokens:q} "
        "--vocabulary {output.vocabulary:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"
