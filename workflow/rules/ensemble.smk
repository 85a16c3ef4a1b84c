# Answers without a model of their own (ensembles, baselines), and the scores of all.


rule ensemble:
    input:
        predictions=lambda wildcards: [
            f"{CONFIG.results}/predictions/{wildcards.test_set}/{model}.parquet"
            for model in ENSEMBLES[wildcards.ensemble].models
        ],
        facts=lambda wildcards: [
            f"{CONFIG.results}/predictions/{wildcards.test_set}/{model}.json"
            for model in ENSEMBLES[wildcards.ensemble].models
        ],
        code=modules("ensemble"),
    output:
        predictions="<results>/predictions/{test_set}/{ensemble}.parquet",
        facts="<results>/predictions/{test_set}/{ensemble}.json",
    log:
        "<logs>/ensemble/{test_set}-{ensemble}.log",
    benchmark:
        "<benchmarks>/ensemble/{test_set}-{ensemble}.tsv"
    conda:
        "../../envs/chem.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        # Snakemake compares inputs as a set, but the order of the members decides ties.
        members=lambda wildcards: ENSEMBLES[wildcards.ensemble].models,
    message:
        "The models of ensemble {wildcards.ensemble} vote in pairs on {wildcards.test_set}"
    shell:
        "python -m ocsrflow.ensemble --predictions {input.predictions:q} --member-facts {input.facts:q} "
        "--name {wildcards.ensemble:q} --out {output.predictions:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule baseline:
    input:
        data=test_pictures,
        code=modules("baseline"),
    output:
        predictions="<results>/predictions/{test_set}/{baseline}.parquet",
        facts="<results>/predictions/{test_set}/{baseline}.json",
    log:
        "<logs>/baseline/{test_set}-{baseline}.log",
    benchmark:
        "<benchmarks>/baseline/{test_set}-{baseline}.tsv"
    conda:
        "../../envs/chem.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        pictures=which_pictures,
    message:
        "Find the best constant answer for {wildcards.test_set}"
    shell:
        "python -m ocsrflow.baseline {input.data:q} {params.pictures:q} --name {wildcards.baseline:q} "
        "--out {output.predictions:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule score:
    input:
        predictions="<results>/predictions/{test_set}/{reader}.parquet",
        facts="<results>/predictions/{test_set}/{reader}.json",
        tracking="<results>/tracking.json",
        code=modules("score"),
    output:
        scores="<results>/scores/{test_set}/{reader}.json",
        images="<results>/scores/{test_set}/{reader}.parquet",
    log:
        "<logs>/score/{test_set}-{reader}.log",
    benchmark:
        "<benchmarks>/score/{test_set}-{reader}.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "Score {wildcards.reader} on {wildcards.test_set}"
    shell:
        "python -m ocsrflow.score {input.predictions:q} --facts {input.facts:q} --test-set {wildcards.test_set:q} "
        "--tracking {input.tracking:q} --out {output.scores:q} --images {output.images:q} 2>&1 | tee {log:q}"
