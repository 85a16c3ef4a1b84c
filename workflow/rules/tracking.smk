# MLflow: the store and the experiment before anything logs; at the end a run for each result. A training sends its own
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
        "../../envs/report.yaml"
    params:
        experiment=f"--experiment={CONFIG.tracking.experiment}",
        server=[f"--uri={CONFIG.tracking.uri}"] if CONFIG.tracking.uri else [],
    message:
        "Prepare MLflow"
    shell:
        # The store itself is no output: it grows with every run, and Snakemake would empty it before it makes it.
        "python -m ocsrflow.tracking {params.experiment:q} {params.server:q} --out {output:q} " "2>&1 | tee {log:q}"


rule record:
    input:
        models=of_each(
            "models/{model}/{file}", model=MODELS, file=["weights.safetensors", "model.json", "metrics.jsonl"]
        ),
        calibration=of_each("calibration/{model}.json", model=MODELS),
        scores=of_each(
            "scores/{test_set}/{reader}.{form}", test_set=TEST_SETS, reader=READERS, form=["json", "parquet"]
        ),
        drawn_scores=of_each(
            "scores/{drawing}/{reader}.{form}", drawing=DRAWINGS, reader=READERS_OF_DRAWINGS, form=["json", "parquet"]
        ),
        predictions=of_each("predictions/{test_set}/{reader}.parquet", test_set=TEST_SETS, reader=READERS),
        drawn_predictions=of_each(
            "predictions/{drawing}/{reader}.parquet", drawing=DRAWINGS, reader=READERS_OF_DRAWINGS
        ),
        speed_training=of_each("speed/training/{model}.json", model=CLOCKED_MODELS),
        speed_prediction=of_each("speed/prediction/{ensemble}.json", ensemble=CLOCKED_ENSEMBLES),
        data=of_each("datasets/{dataset}/images.h5", dataset=[*ALL_DATASETS, *DRAWINGS]),
        report=rules.report.output,
        tracking="<results>/tracking.json",
        # Models are kept with the code that reads pictures with them.
        code=modules("record", "served"),
    output:
        "<results>/runs.json",
    log:
        "<logs>/record.log",
    benchmark:
        "<benchmarks>/record.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        results=CONFIG.results,
    message:
        "Record all results in MLflow"
    shell:
        "python -m ocsrflow.record {params.results:q} --out {output:q} 2>&1 | tee {log:q}"
