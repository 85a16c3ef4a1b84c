# Models: weights → train → predict → redraw → calibrate.


rule weights:
    input:
        code=modules("weights"),
    output:
        "<results>/weights/{encoder}.pth",
    log:
        "<logs>/weights/{encoder}.log",
    benchmark:
        "<benchmarks>/weights/{encoder}.tsv"
    conda:
        CONDA["train"]
    params:
        folder=lambda wildcards: CONFIG.weights_folder,
    message:
        "Bring the ImageNet weights of {wildcards.encoder} here"
    shell:
        "python -m ocsrflow.weights {wildcards.encoder:q} --out {output:q} --folder {params.folder:q} "
        "2>&1 | tee {log:q}"


rule train:
    input:
        data=training_data,
        weights=imagenet_weights,
        parent=parent_files,
        code=modules("launch", "train"),
    output:
        weights="<results>/models/{model}/weights.safetensors",
        metrics="<results>/models/{model}/metrics.jsonl",
        description="<results>/models/{model}/model.json",
    log:
        "<logs>/train/{model}.log",
    benchmark:
        "<benchmarks>/train/{model}.tsv"
    conda:
        CONDA["train"]
    threads: 8
    resources:
        gpu=lambda wildcards: MODELS[wildcards.model].gpus,
        mem_mb=32000,
        runtime=2880,
    params:
        network=lambda wildcards: MODELS[wildcards.model].network.model_dump_json(),
        training=lambda wildcards: MODELS[wildcards.model].training.model_dump_json(),
        dataset=lambda wildcards: MODELS[wildcards.model].dataset,
        weights=lambda wildcards, input: ["--weights", input.weights] if input.get("weights") else [],
        # Not an output: Snakemake removes outputs before a job starts, and checkpoints must survive that.
        checkpoints=f"{CONFIG.results}/checkpoints",
        minutes=CONFIG.checkpoints.minutes,
        # Not an input either: where the curves go decides nothing of what is learnt. The rule tracking comes first by its
        # priority, and until its file is there curves wait. (With ancient(), whenever that rule runs Snakemake does not
        # look for other reasons to train.)
        tracking=f"{CONFIG.results}/tracking.json",
        # As configured; the resource is what --resources left of it, without a word.
        gpus=lambda wildcards: MODELS[wildcards.model].gpus,
    message:
        "Train {wildcards.model} on {params.dataset} (gpu={resources.gpu}, {threads} threads)"
    shell:
        # A signal to the whole group leaves this shell to wait for the training, which saves, and tee to hear it out.
        "trap : INT TERM HUP USR1; "
        "python -m ocsrflow.launch --gpus {params.gpus} --granted {resources.gpu} "
        "ocsrflow.train {input.data:q} --name {wildcards.model:q} "
        "--dataset {params.dataset:q} --network {params.network:q} --training {params.training:q} "
        "{params.weights:q} --checkpoints {params.checkpoints:q} --checkpoint-minutes {params.minutes} "
        "--tracking {params.tracking:q} "
        "--threads {threads} --out {output.weights:q} --metrics {output.metrics:q} "
        "--description {output.description:q} 2>&1 | (trap '' INT TERM HUP USR1; exec tee {log:q})"


rule predict:
    input:
        data=test_pictures,
        weights="<results>/models/{model}/weights.safetensors",
        description="<results>/models/{model}/model.json",
        code=modules("predict_set"),
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
        gpu=lambda wildcards: min(1, MODELS[wildcards.model].gpus),
        mem_mb=16000,
        runtime=240,
    params:
        pictures=which_pictures,
        reading=CONFIG.prediction.model_dump_json(include=set(Reading.model_fields)),
        batch=CONFIG.prediction.batch,
        timed_images=CONFIG.prediction.timed_images,
    message:
        "{wildcards.model} reads the pictures of {wildcards.test_set}"
    shell:
        "python -m ocsrflow.predict_set {input.data:q} --gpus {resources.gpu} --weights {input.weights:q} "
        "--description {input.description:q} {params.pictures:q} --reading {params.reading:q} "
        "--batch {params.batch} --timed-images {params.timed_images} --threads {threads} "
        "--out {output.predictions:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule redraw:
    input:
        data=test_pictures,
        predictions="<results>/predictions/{test_set}/{model}.parquet",
        code=modules("redraw"),
    output:
        distances="<results>/redrawn/{test_set}/{model}.parquet",
        facts="<results>/redrawn/{test_set}/{model}.json",
    log:
        "<logs>/redraw/{test_set}-{model}.log",
    benchmark:
        "<benchmarks>/redraw/{test_set}-{model}.tsv"
    conda:
        CONDA["chem"]
    threads: 4
    resources:
        mem_mb=4000,
        runtime=240,
    message:
        "Draw what {wildcards.model} read in {wildcards.test_set} and compare"
    shell:
        "python -m ocsrflow.redraw {input.data:q} --predictions {input.predictions:q} --processes {threads} "
        "--out {output.distances:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule calibrate:
    input:
        predictions=f"<results>/predictions/{settings.SELECTION}/{{reader}}.parquet",
        redrawn=redrawn_files(settings.SELECTION),
        code=modules("calibrate"),
    output:
        "<results>/calibration/{reader}.json",
    log:
        "<logs>/calibrate/{reader}.log",
    benchmark:
        "<benchmarks>/calibrate/{reader}.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        redrawn=lambda wildcards, input: option("--redrawn", input.redrawn),
    message:
        "Learn on validation pictures how far {wildcards.reader} is to be trusted"
    shell:
        "python -m ocsrflow.calibrate {input.predictions:q} {params.redrawn:q} --processes {threads} "
        "--out {output:q} 2>&1 | tee {log:q}"
