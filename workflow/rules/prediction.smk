# What models read in test sets: predict → redraw, rescore.


rule predict:
    input:
        data=plan.test_pictures,
        weights="<results>/models/{model}/weights.safetensors",
        description="<results>/models/{model}/model.json",
    output:
        predictions="<results>/predictions/{test_set}/{model}.parquet",
        facts="<results>/predictions/{test_set}/{model}.json",
    log:
        "<logs>/predict/{test_set}-{model}.log",
    benchmark:
        "<benchmarks>/predict/{test_set}-{model}.tsv"
    conda:
        CONDA["train"]
    threads: 8
    resources:
        gpu=plan.reading_gpus,
        mem_mb=16000,
        runtime=240,
    params:
        code=code_version("prediction.predict"),
        gpus=plan.reading_gpus,
        pictures=plan.picture_options,
        reading=CONFIG.prediction.model_dump_json(include=set(Reading.model_fields)),
        batch=CONFIG.prediction.batch,
        timed_images=CONFIG.prediction.timed_images,
    message:
        "{wildcards.model} reads the pictures of {wildcards.test_set}"
    shell:
        "python -m ocsrflow predict {input.data:q} --gpus {params.gpus} --granted {resources.gpu} "
        "--weights {input.weights:q} --description {input.description:q} {params.pictures:q} --reading {params.reading:q} "
        "--batch {params.batch} --timed-images {params.timed_images} --threads {threads} "
        "--out {output.predictions:q} --facts {output.facts:q} > {log:q} 2>&1"


rule redraw:
    input:
        data=plan.test_pictures,
        predictions="<results>/predictions/{test_set}/{member}.parquet",
    output:
        distances="<results>/redrawn/{test_set}/{member}.parquet",
        facts="<results>/redrawn/{test_set}/{member}.json",
    log:
        "<logs>/redraw/{test_set}-{member}.log",
    benchmark:
        "<benchmarks>/redraw/{test_set}-{member}.tsv"
    conda:
        CONDA["chem"]
    threads: 4
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        code=code_version("prediction.redraw"),
    message:
        "Draw what {wildcards.member} read in {wildcards.test_set} and compare"
    shell:
        "python -m ocsrflow redraw {input.data:q} --predictions {input.predictions:q} --processes {threads} "
        "--out {output.distances:q} --facts {output.facts:q} > {log:q} 2>&1"


rule rescore:
    input:
        data=plan.test_pictures,
        predictions=plan.of_members("<results>/predictions/{test_set}/{member}.parquet"),
        facts=plan.of_members("<results>/predictions/{test_set}/{member}.json"),
        weights=plan.of_trained_members("weights.safetensors"),
        descriptions=plan.of_trained_members("model.json"),
    output:
        likelihoods="<results>/likelihoods/{test_set}/{ensemble}.parquet",
        facts="<results>/likelihoods/{test_set}/{ensemble}.json",
    log:
        "<logs>/rescore/{test_set}-{ensemble}.log",
    benchmark:
        "<benchmarks>/rescore/{test_set}-{ensemble}.tsv"
    conda:
        CONDA["train"]
    threads: 8
    resources:
        gpu=plan.rescoring_gpus,
        mem_mb=16000,
        runtime=240,
    params:
        code=code_version("prediction.rescore"),
        gpus=plan.rescoring_gpus,
        members=plan.trained_members,
        batch=CONFIG.prediction.batch,
        timed_images=CONFIG.prediction.timed_images,
        precision=CONFIG.prediction.precision,
    message:
        "The models of ensemble {wildcards.ensemble} score each other's candidates on {wildcards.test_set}"
    shell:
        "python -m ocsrflow rescore {input.data:q} --gpus {params.gpus} --granted {resources.gpu} "
        "--predictions {input.predictions:q} --member-facts {input.facts:q} --weights {input.weights:q} --descriptions {input.descriptions:q} "
        "--batch {params.batch} --timed-images {params.timed_images} --precision {params.precision:q} "
        "--threads {threads} --out {output.likelihoods:q} --facts {output.facts:q} > {log:q} 2>&1"
