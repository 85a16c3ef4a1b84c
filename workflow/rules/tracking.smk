# MLflow: the store and the experiment before anything logs; a run for whatever is finished. A training sends its own
# curves as it goes on, see mirror.py.


rule tracking:
    input:
        code=modules("tracking"),
    output:
        "<results>/tracking.json",
    log:
        "<logs>/tracking.log",
    priority: 100
    conda:
        CONDA["report"]
    params:
        experiment=f"--experiment={CONFIG.tracking.experiment}",
        server=[f"--uri={CONFIG.tracking.uri}"] if CONFIG.tracking.uri else [],
    message:
        "Prepare MLflow"
    shell:
        # The store itself is no output: it grows with every run, and Snakemake would empty it before it makes it.
        "python -m ocsrflow.tracking {params.experiment:q} {params.server:q} --out {output:q} " "2>&1 | tee {log:q}"


rule record_model:
    input:
        weights="<results>/models/{model}/weights.safetensors",
        description="<results>/models/{model}/model.json",
        metrics="<results>/models/{model}/metrics.jsonl",
        calibration="<results>/calibration/{model}.json",
        # Its scores in each drawing stand with it.
        drawings=lambda wildcards: of_each("scores/{drawing}/{model}.json", drawing=DRAWINGS, model=wildcards.model),
        data=training_data,
        tracking="<results>/tracking.json",
        # The model is kept with the code that reads pictures with it.
        code=modules("record", "served"),
    output:
        "<results>/recorded/models/{model}.json",
    log:
        "<logs>/record_model/{model}.log",
    benchmark:
        "<benchmarks>/record_model/{model}.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        results=lambda wildcards, input: str(Path(input.tracking).parent),
    message:
        "Register {wildcards.model} in MLflow"
    shell:
        "python -m ocsrflow.record models/{wildcards.model:q} --results {params.results:q} --data {input.data:q} "
        "--out {output:q} 2>&1 | tee {log:q}"


rule record_score:
    input:
        scores="<results>/scores/{test_set}/{reader}.json",
        images="<results>/scores/{test_set}/{reader}.parquet",
        predictions="<results>/predictions/{test_set}/{reader}.parquet",
        # Its scores are shown with the model.
        model=lambda wildcards: (
            f"{CONFIG.results}/recorded/models/{wildcards.reader}.json" if wildcards.reader in MODELS else []
        ),
        data=test_pictures,
        tracking="<results>/tracking.json",
        code=modules("record"),
    output:
        "<results>/recorded/scores/{test_set}/{reader}.json",
    log:
        "<logs>/record_score/{test_set}-{reader}.log",
    benchmark:
        "<benchmarks>/record_score/{test_set}-{reader}.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        results=lambda wildcards, input: str(Path(input.tracking).parent),
    message:
        "Record {wildcards.reader} on {wildcards.test_set} in MLflow"
    shell:
        "python -m ocsrflow.record scores/{wildcards.test_set:q}/{wildcards.reader:q} --results {params.results:q} "
        "--data {input.data:q} --out {output:q} 2>&1 | tee {log:q}"


rule record_speed:
    input:
        speed="<results>/speed/{speed}.json",
        data=clocked_data,
        tracking="<results>/tracking.json",
        code=modules("record"),
    output:
        "<results>/recorded/speed/{speed}.json",
    log:
        "<logs>/record_speed/{speed}.log",
    benchmark:
        "<benchmarks>/record_speed/{speed}.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        results=lambda wildcards, input: str(Path(input.tracking).parent),
    message:
        "Record the speed of {wildcards.speed} in MLflow"
    shell:
        "python -m ocsrflow.record speed/{wildcards.speed:q} --results {params.results:q} --data {input.data:q} "
        "--out {output:q} 2>&1 | tee {log:q}"


rule record_report:
    input:
        report=rules.report.output,
        runs=RECORDED,
        data=of_each("datasets/{dataset}/images.h5", dataset={t.dataset: None for t in TEST_SETS.values()}),
        tracking="<results>/tracking.json",
        code=modules("record"),
    output:
        "<results>/recorded/report.json",
    log:
        "<logs>/record_report.log",
    benchmark:
        "<benchmarks>/record_report.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        results=lambda wildcards, input: str(Path(input.tracking).parent),
    message:
        "Record the report in MLflow"
    shell:
        "python -m ocsrflow.record report --results {params.results:q} --data {input.data:q} --out {output:q} "
        "2>&1 | tee {log:q}"
