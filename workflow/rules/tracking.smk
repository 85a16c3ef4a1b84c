# MLflow: the store and the experiment before anything logs; at the end a run for each result. A training sends its own
# curves as it goes on, see tracking/live_curves.py.


rule tracking:
    output:
        "<results>/tracking.json",
    log:
        "<logs>/tracking.log",
    priority: 100
    conda:
        CONDA["report"]
    params:
        code=code_version("tracking.tracking"),
        experiment=f"--experiment={CONFIG.tracking.experiment}",
        server=[f"--uri={CONFIG.tracking.uri}"] if CONFIG.tracking.uri else [],
    message:
        "Prepare MLflow"
    shell:
        # The store itself is no output: it grows with every run, and Snakemake would empty it before it makes it.
        "python -m ocsrflow tracking {params.experiment:q} {params.server:q} --out {output:q} > {log:q} 2>&1"


rule record:
    input:
        models=expand(
            "<results>/models/{model}/{file}",
            model=plan.models,
            file=["weights.safetensors", "model.json", "metrics.jsonl"],
        ),
        calibration=expand("<results>/calibration/{model}.json", model=plan.models),
        scores=expand(
            "<results>/scores/{test_set}/{reader}.{form}",
            test_set=plan.test_sets,
            reader=plan.readers,
            form=["json", "parquet"],
        ),
        drawn_scores=expand(
            "<results>/scores/{drawing}/{reader}.{form}",
            drawing=plan.drawings,
            reader=plan.readers_of_drawings,
            form=["json", "parquet"],
        ),
        predictions=expand(
            "<results>/predictions/{test_set}/{reader}.parquet", test_set=plan.test_sets, reader=plan.readers
        ),
        drawn_predictions=expand(
            "<results>/predictions/{drawing}/{reader}.parquet", drawing=plan.drawings, reader=plan.readers_of_drawings
        ),
        speed_training=expand("<results>/speed/training/{model}.json", model=plan.timed_models),
        speed_prediction=expand("<results>/speed/prediction/{ensemble}.json", ensemble=plan.timed_ensembles),
        data=expand("<results>/datasets/{dataset}/images.h5", dataset=[*plan.packed, *plan.drawings]),
        report=rules.report.output,
        tracking="<results>/tracking.json",
    output:
        "<results>/runs.json",
    log:
        "<logs>/record.log",
    benchmark:
        "<benchmarks>/record.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        # Models are kept with the code that reads pictures with them.
        code=code_version("tracking.record", "reader.mlflow_pyfunc"),
        results=lambda wildcards: fill_paths("<results>"),
    message:
        "Record all results in MLflow"
    shell:
        "python -m ocsrflow record {params.results:q} --out {output:q} > {log:q} 2>&1"
