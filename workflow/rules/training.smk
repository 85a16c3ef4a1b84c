# Trainings: weights → train.


rule weights:
    output:
        # Snakemake keeps the old file until the new one is whole, and puts it back where that fails.
        update("<results>/weights/{encoder}.pth"),
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
        "python -m ocsrflow weights {wildcards.encoder:q} --out {output:q} --folder {params.folder:q} > {log:q} 2>&1"


rule train:
    input:
        data=plan.training_data,
        weights=plan.imagenet_weights,
        parent=plan.parent_files,
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
        gpu=plan.gpus,
        mem_mb=32000,
        runtime=2880,
    params:
        code=code_version("training.train"),
        network=lambda wildcards: plan.models[wildcards.model].network.model_dump_json(),
        training=lambda wildcards: plan.models[wildcards.model].training.model_dump_json(),
        dataset=lambda wildcards: plan.models[wildcards.model].dataset,
        weights=given("weights"),
        # Not an output: Snakemake removes outputs before a job starts, and checkpoints must survive that.
        checkpoints=fill_paths("<results>/checkpoints"),
        minutes=CONFIG.checkpoints.minutes,
        # Not an input either: where the curves go decides nothing of what is learnt. The rule tracking comes first by
        # its priority, and until its file is there curves wait. (With ancient(), whenever that rule runs Snakemake does
        # not look for other reasons to train.)
        tracking=fill_paths("<results>/tracking.json"),
        # As configured; the resource is what --resources left of it, without a word.
        gpus=plan.gpus,
    message:
        "Train {wildcards.model} on {params.dataset} (gpu={resources.gpu}, {threads} threads)"
    shell:
        # The one stage whose words are in the terminal too (tee): it takes hours, and one looks at how it goes on.
        # A signal to the whole group leaves this shell to wait for the training, which saves, and tee to hear it out.
        "trap : INT TERM HUP USR1; "
        "python -m ocsrflow launch --gpus {params.gpus} --granted {resources.gpu} -- "
        "train {input.data:q} --name {wildcards.model:q} "
        "--dataset {params.dataset:q} --network {params.network:q} --training {params.training:q} "
        "{params.weights:q} --checkpoints {params.checkpoints:q} --checkpoint-minutes {params.minutes} "
        "--tracking {params.tracking:q} "
        "--threads {threads} --out {output.weights:q} --metrics {output.metrics:q} "
        "--description {output.description:q} 2>&1 | (trap '' INT TERM HUP USR1; exec tee {log:q})"
