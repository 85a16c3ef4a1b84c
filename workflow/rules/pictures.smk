# Pictures: render (scattered over shards, each drawn by as many processes as the job has threads) → pack; test sets of
# pictures from elsewhere and in named drawings.
#
# The pictures themselves belong to the corpus: render draws what is missing into files below <results>/corpus, which
# are no outputs of a rule since any data set may have made them, and writes down where each of its pictures is.


rule render:
    input:
        sample="<results>/datasets/{dataset}/sample.parquet",
        pictures=plan.supplied_pictures,
    output:
        index="<results>/datasets/{dataset}/shards/{shard}.parquet",
        rejects="<results>/datasets/{dataset}/rejects/render-{shard}.csv",
    log:
        "<logs>/render/{dataset}-{shard}.log",
    benchmark:
        "<benchmarks>/render/{dataset}-{shard}.tsv"
    conda:
        CONDA["chem"]
    threads: 16
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        code=code_version("pictures.render"),
        shards=plan.shards,
        store=lambda wildcards: fill_paths(plan.of_source("pictures")(wildcards)),
        depiction=CONFIG.depiction.model_dump_json(),
        drawings=lambda wildcards: plan.datasets[wildcards.dataset].drawings,
        time_limit=CONFIG.rendering.time_limit,
        pictures=given("pictures"),
    message:
        "Draw shard {wildcards.shard} of {params.shards} of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow render {input.sample:q} --shard {wildcards.shard} --shards {params.shards} "
        "--store {params.store:q} --depiction {params.depiction:q} --drawings {params.drawings:q} "
        "--time-limit {params.time_limit} {params.pictures:q} --processes {threads} --out {output.index:q} "
        "--rejects {output.rejects:q} > {log:q} 2>&1"


rule pack:
    input:
        sample="<results>/datasets/{dataset}/sample.parquet",
        shards=plan.shard_indices,
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
        code=code_version("pictures.pack"),
        # One path and a count: the paths of thousands of shards would not fit on a command line.
        folder=fill_paths("<results>/datasets/{dataset}/shards"),
        store=lambda wildcards: fill_paths(plan.of_source("pictures")(wildcards)),
        rejects=fill_paths("<results>/datasets/{dataset}/rejects"),
        shards=plan.shards,
        drawings=lambda wildcards: plan.datasets[wildcards.dataset].drawings,
    message:
        "Pack the pictures and tokens of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow pack {input.sample:q} {params.folder:q} --store {params.store:q} --shards {params.shards} "
        "--drawings {params.drawings:q} --render-rejects {params.rejects:q} --out {output.images:q} "
        "--tokens {output.tokens:q} --vocabulary {output.vocabulary:q} --rejects {output.rejects:q} > {log:q} 2>&1"


rule benchmark_set:
    input:
        images=lambda wildcards: ancient(plan.benchmarks[wildcards.benchmark].images),
        references=lambda wildcards: plan.benchmarks[wildcards.benchmark].references,
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
        code=code_version("pictures.benchmark_set"),
        pictures=plan.files_of_benchmark,
        depiction=CONFIG.depiction.model_dump_json(),
        columns=lambda wildcards: [
            f"--id-column={plan.benchmarks[wildcards.benchmark].id_column}",
            f"--smiles-column={plan.benchmarks[wildcards.benchmark].smiles_column}",
        ],
    message:
        "Bring the pictures of benchmark {wildcards.benchmark} into shape"
    shell:
        "python -m ocsrflow benchmark_set {input.images:q} {input.references:q} --depiction {params.depiction:q} "
        "{params.columns:q} --name {wildcards.benchmark:q} --out {output.data:q} --originals {output.originals:q} "
        "--rejects {output.rejects:q} > {log:q} 2>&1"


rule draw_set:
    input:
        data=f"<results>/datasets/{plan.main.dataset}/images.h5",
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
        code=code_version("pictures.draw_set"),
        test_set=plan.main.name,
        molecules=picture_options(plan.drawn_molecules()),
        style=lambda wildcards: plan.drawings[wildcards.drawing].style.model_dump_json(),
        time_limit=CONFIG.rendering.time_limit,
    message:
        "Draw the molecules of {params.test_set} in the style {wildcards.drawing}"
    shell:
        "python -m ocsrflow draw_set {input.data:q} {params.molecules:q} --name {wildcards.drawing:q} "
        "--style {params.style:q} --time-limit {params.time_limit} --processes {threads} --out {output.data:q} "
        "--originals {output.originals:q} --rejects {output.rejects:q} > {log:q} 2>&1"
