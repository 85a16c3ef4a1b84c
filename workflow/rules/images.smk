# Pictures: render (scattered over shards) → pack → browse.
#
# The pictures themselves belong to the corpus: render draws what is missing into files below <results>/corpus, which
# are no outputs of a rule since any data set may have made them, and writes down where each of its pictures is.


rule render:
    input:
        sample="<results>/datasets/{dataset}/sample.parquet",
        pictures=lambda wildcards: supplied_pictures(SOURCES[DATASETS[wildcards.dataset].source]),
        code=modules("render"),
    output:
        index="<results>/datasets/{dataset}/shards/{shard}.parquet",
        rejects="<results>/datasets/{dataset}/rejects/render-{shard}.csv",
    log:
        "<logs>/render/{dataset}-{shard}.log",
    benchmark:
        "<benchmarks>/render/{dataset}-{shard}.tsv"
    conda:
        CONDA["chem"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        shards=shard_count,
        store=picture_store,
        depiction=CONFIG.depiction.model_dump_json(),
        drawings=lambda wildcards: DATASETS[wildcards.dataset].drawings,
        time_limit=CONFIG.rendering.time_limit,
        pictures=lambda wildcards, input: ["--pictures", input.pictures] if input.get("pictures") else [],
    message:
        "Draw shard {wildcards.shard} of {params.shards} of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow.render {input.sample:q} --shard {wildcards.shard} --shards {params.shards} "
        "--store {params.store:q} --depiction {params.depiction:q} --drawings {params.drawings:q} --time-limit {params.time_limit} "
        "{params.pictures:q} --out {output.index:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule pack:
    input:
        sample="<results>/datasets/{dataset}/sample.parquet",
        shards=lambda wildcards: [
            f"{CONFIG.results}/datasets/{wildcards.dataset}/shards/{shard}.parquet"
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
        CONDA["chem"]
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        # One path and a count: the paths of thousands of shards would not fit on a command line.
        folder=lambda wildcards: f"{CONFIG.results}/datasets/{wildcards.dataset}/shards",
        store=picture_store,
        rejects=lambda wildcards: f"{CONFIG.results}/datasets/{wildcards.dataset}/rejects",
        shards=shard_count,
        drawings=lambda wildcards: DATASETS[wildcards.dataset].drawings,
    message:
        "Pack the pictures and tokens of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow.pack {input.sample:q} {params.folder:q} --store {params.store:q} --shards {params.shards} "
        "--drawings {params.drawings:q} --render-rejects {params.rejects:q} --out {output.images:q} --tokens {output.tokens:q} "
        "--vocabulary {output.vocabulary:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule browse:
    input:
        data=lambda wildcards: f"{CONFIG.results}/datasets/{wildcards.dataset}/images.h5",
        others=of_each("datasets/{dataset}/images.h5", dataset=DATASETS),
        lengths=lambda wildcards: f"{CONFIG.results}/datasets/{wildcards.dataset}/lengths.csv",
        rejects=lambda wildcards: [
            f"{CONFIG.results}/corpus/{DATASETS[wildcards.dataset].source}/rejects.csv",
            f"{CONFIG.results}/datasets/{wildcards.dataset}/rejects/sample.csv",
            f"{CONFIG.results}/datasets/{wildcards.dataset}/rejects/pack.csv",
        ],
        code=modules("browse"),
        templates=templates("browse.html"),
    output:
        report(
            "<results>/report/data/{dataset}.html",
            caption="../report/browse.rst",
            category="Data",
            labels={"data set": "{dataset}"},
        ),
    log:
        "<logs>/browse/{dataset}.log",
    benchmark:
        "<benchmarks>/browse/{dataset}.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "Show what is in data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow.browse {input.data:q} --others {input.others:q} --lengths {input.lengths:q} "
        "--rejects {input.rejects:q} --out {output:q} 2>&1 | tee {log:q}"


rule benchmark_set:
    input:
        images=lambda wildcards: ancient(literal(BENCHMARKS[wildcards.benchmark].images)),
        references=lambda wildcards: literal(BENCHMARKS[wildcards.benchmark].references),
        code=modules("benchmark_set"),
    output:
        data="<results>/datasets/{benchmark}/images.h5",
        originals="<results>/datasets/{benchmark}/originals.zip",
        rejects="<results>/datasets/{benchmark}/rejects/benchmark_set.csv",
    log:
        "<logs>/benchmark_set/{benchmark}.log",
    benchmark:
        "<benchmarks>/benchmark_set/{benchmark}.tsv"
    conda:
        CONDA["chem"]
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        pictures=what_lies_in,
        depiction=CONFIG.depiction.model_dump_json(),
        columns=lambda wildcards: [
            f"--id-column={BENCHMARKS[wildcards.benchmark].id_column}",
            f"--smiles-column={BENCHMARKS[wildcards.benchmark].smiles_column}",
        ],
    message:
        "Bring the pictures of benchmark {wildcards.benchmark} into shape"
    shell:
        "python -m ocsrflow.benchmark_set {input.images:q} {input.references:q} --depiction {params.depiction:q} "
        "{params.columns:q} --name {wildcards.benchmark:q} --out {output.data:q} --originals {output.originals:q} "
        "--rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule draw_set:
    input:
        data=f"{CONFIG.results}/datasets/{CONFIG.test_sets[0].dataset}/images.h5",
        code=modules("pictures.draw_set"),
    output:
        data="<results>/datasets/{drawing}/images.h5",
        originals="<results>/datasets/{drawing}/originals.zip",
        rejects="<results>/datasets/{drawing}/rejects/draw_set.csv",
    log:
        "<logs>/draw_set/{drawing}.log",
    benchmark:
        "<benchmarks>/draw_set/{drawing}.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        test_set=CONFIG.test_sets[0].name,
        molecules=molecules_of_drawings(),
        style=lambda wildcards: DRAWINGS[wildcards.drawing].style.model_dump_json(),
        time_limit=CONFIG.rendering.time_limit,
    message:
        "Draw the molecules of {params.test_set} in the style {wildcards.drawing}"
    shell:
        "python -m ocsrflow.pictures.draw_set {input.data:q} {params.molecules:q} --name {wildcards.drawing:q} "
        "--style {params.style:q} --time-limit {params.time_limit} --processes {threads} --out {output.data:q} "
        "--originals {output.originals:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"
