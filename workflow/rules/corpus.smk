# Molecules: download → filter → sample.


def raw_corpus(wildcards):
    source = SOURCES[wildcards.source]
    if source.kind == "file":
        return source.path
    if source.kind == "pictures":
        return source.csv
    return f"{CONFIG.results}/corpus/{source.name}/CID-SMILES.gz"


def source_options(source):
    options = ["--kind", source.kind]
    if source.kind == "pubchem":
        options += ["--url", source.url, *(["--md5-url", source.md5_url] if source.md5_url else [])]
    return options


def pictures_options(source):
    if source.kind != "pictures":
        return []
    columns = ["--file-column", source.file_column, "--smiles-column", source.smiles_column]
    return ["--form", "pictures", "--pictures", source.pictures, *columns]


def draw_options(wildcards):
    dataset = DATASETS[wildcards.dataset]
    options = ["--max-length", str(dataset.max_length or SOURCES[dataset.source].max_length)]
    if dataset.per_length is not None:
        options += ["--per-length", str(dataset.per_length)]
    if dataset.size is not None:
        options += ["--size", str(dataset.size)]
    return [*options, "--seed", str(dataset.seed)]


rule download:
    input:
        code=modules("download"),
    output:
        "<results>/corpus/{source}/CID-SMILES.gz",
    params:
        source=lambda wildcards: source_options(SOURCES[wildcards.source]),
    log:
        "<logs>/download/{source}.log",
    benchmark:
        "<benchmarks>/download/{source}.tsv"
    conda:
        "../../envs/chem.yaml"
    message:
        "Bring the molecules of {wildcards.source} here"
    shell:
        "python -m ocsrflow.download {params.source:q} --out {output:q} 2>&1 | tee {log:q}"


rule filter:
    input:
        corpus=raw_corpus,
        code=modules("filter"),
    output:
        kept="<results>/corpus/{source}/kept.parquet",
        lengths="<results>/corpus/{source}/lengths.csv",
        rejects="<results>/corpus/{source}/rejects.csv",
    params:
        max_length=lambda wildcards: SOURCES[wildcards.source].max_length,
        pictures=lambda wildcards: pictures_options(SOURCES[wildcards.source]),
    log:
        "<logs>/filter/{source}.log",
    benchmark:
        "<benchmarks>/filter/{source}.tsv"
    conda:
        "../../envs/chem.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    message:
        "Keep the molecules of {wildcards.source} with at most {params.max_length} characters"
    shell:
        "python -m ocsrflow.filter {input.corpus:q} --max-length {params.max_length} {params.pictures:q} "
        "--kept {output.kept:q} --lengths {output.lengths:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule sample:
    input:
        kept=lambda wildcards: f"{CONFIG.results}/corpus/{DATASETS[wildcards.dataset].source}/kept.parquet",
        code=modules("sample"),
    output:
        sample="<results>/datasets/{dataset}/sample.parquet",
        lengths="<results>/datasets/{dataset}/lengths.csv",
        rejects="<results>/datasets/{dataset}/rejects/sample.csv",
    params:
        draw=draw_options,
        validation=CONFIG.split.validation,
        test=CONFIG.split.test,
        split_seed=CONFIG.split.seed,
    log:
        "<logs>/sample/{dataset}.log",
    benchmark:
        "<benchmarks>/sample/{dataset}.tsv"
    conda:
        "../../envs/chem.yaml"
    threads: 8
    resources:
        mem_mb=32000,
        runtime=240,
    message:
        "Draw the molecules of data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow.sample {input.kept:q} {params.draw:q} --validation {params.validation} "
        "--test {params.test} --split-seed {params.split_seed} --processes {threads} --out {output.sample:q} "
        "--lengths {output.lengths:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"
