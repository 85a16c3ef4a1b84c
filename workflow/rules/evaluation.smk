# Baselines, the scores of all, and speed: trainings with one process and with several, ensembles with one member after
# the other and side by side.
#
# While speed is measured nothing else should compute. On GPUs the jobs have theirs for themselves; on the CPU they take
# eight cores, or all where there are fewer. For numbers to be cited on a machine with more, run them when the rest is
# done: snakemake ... --forcerun speed_training speed_prediction --set-threads speed_training=64 speed_prediction=64


rule constant:
    input:
        data=plan.test_pictures,
        candidates=plan.training_molecules,
    output:
        predictions="<results>/predictions/{test_set}/constant.parquet",
        facts="<results>/predictions/{test_set}/constant.json",
    log:
        "<logs>/constant/{test_set}-constant.log",
    benchmark:
        "<benchmarks>/constant/{test_set}-constant.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code_version("evaluation.constant"),
        pictures=plan.picture_options,
    message:
        "Find the best constant answer for {wildcards.test_set}"
    shell:
        "python -m ocsrflow constant {input.data:q} {params.pictures:q} --candidates {input.candidates:q} "
        "--processes {threads} --out {output.predictions:q} --facts {output.facts:q} > {log:q} 2>&1"


rule osra:
    input:
        data=plan.test_pictures,
        originals=plan.original_pictures,
    output:
        predictions="<results>/predictions/{test_set}/osra.parquet",
        facts="<results>/predictions/{test_set}/osra.json",
    log:
        "<logs>/osra/{test_set}.log",
    benchmark:
        "<benchmarks>/osra/{test_set}.tsv"
    conda:
        CONDA["chem"]
    threads: 4
    resources:
        mem_mb=4000,
        runtime=600,
    params:
        code=code_version("evaluation.osra"),
        pictures=plan.picture_options,
        originals=given("originals"),
        # Once it is installed, it is asked.
        program=which("osra") is not None,
    message:
        "OSRA reads the pictures of {wildcards.test_set}"
    shell:
        "python -m ocsrflow osra {input.data:q} {params.originals:q} {params.pictures:q} --processes {threads} "
        "--out {output.predictions:q} --facts {output.facts:q} > {log:q} 2>&1"


rule score:
    input:
        predictions="<results>/predictions/{test_set}/{reader}.parquet",
        facts="<results>/predictions/{test_set}/{reader}.json",
        redrawn=plan.redrawn("{test_set}"),
        calibration=plan.calibration,
    output:
        scores="<results>/scores/{test_set}/{reader}.json",
        images="<results>/scores/{test_set}/{reader}.parquet",
    log:
        "<logs>/score/{test_set}-{reader}.log",
    benchmark:
        "<benchmarks>/score/{test_set}-{reader}.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code_version("evaluation.score"),
        trust=given("redrawn", "calibration"),
    message:
        "Score {wildcards.reader} on {wildcards.test_set}"
    shell:
        "python -m ocsrflow score {input.predictions:q} --facts {input.facts:q} --test-set {wildcards.test_set:q} "
        "{params.trust:q} --processes {threads} --out {output.scores:q} --images {output.images:q} > {log:q} 2>&1"


rule speed_training:
    input:
        data=plan.training_data,
    output:
        "<results>/speed/training/{model}.json",
    log:
        "<logs>/speed_training/{model}.log",
    benchmark:
        "<benchmarks>/speed_training/{model}.tsv"
    conda:
        CONDA["train"]
    threads: 8
    resources:
        gpu=plan.most_gpus,
        mem_mb=32000,
        runtime=120,
    params:
        code=code_version("training.launch", "evaluation.speed_training", "evaluation.clocked_training"),
        network=lambda wildcards: plan.models[wildcards.model].network.model_dump_json(),
        training=plan.step_settings,
        dataset=lambda wildcards: plan.models[wildcards.model].dataset,
        processes=CONFIG.speed.processes,
        steps=CONFIG.speed.steps,
        # As configured; the resource is what --resources left of it, without a word.
        gpus=plan.most_gpus,
    message:
        "Measure the training speed of {wildcards.model} (gpu={resources.gpu}, {threads} threads)"
    shell:
        "python -m ocsrflow speed_training {input.data:q} --name {wildcards.model:q} --dataset {params.dataset:q} "
        "--network {params.network:q} --training {params.training:q} --processes {params.processes:q} "
        "--steps {params.steps} --gpus {params.gpus} --granted {resources.gpu} --threads {threads} "
        "--out {output:q} > {log:q} 2>&1"


rule speed_prediction:
    input:
        data=f"<results>/datasets/{plan.main.dataset}/images.h5",
        weights=plan.of_trained_members("weights.safetensors"),
        descriptions=plan.of_trained_members("model.json"),
        choice="<results>/ensembles/{ensemble}.json",
    output:
        "<results>/speed/prediction/{ensemble}.json",
    log:
        "<logs>/speed_prediction/{ensemble}.log",
    benchmark:
        "<benchmarks>/speed_prediction/{ensemble}.tsv"
    conda:
        CONDA["train"]
    threads: 8
    resources:
        gpu=plan.side_by_side_gpus,
        mem_mb=32000,
        runtime=120,
    params:
        code=code_version("evaluation.speed_prediction"),
        gpus=plan.side_by_side_gpus,
        # Snakemake compares inputs as a set, but the order of the members decides ties.
        members=plan.members,
        test_set=plan.main.name,
        pictures=picture_options(plan.main),
        reading=CONFIG.prediction.model_dump_json(include=set(Reading.model_fields)),
        timed_images=CONFIG.prediction.timed_images,
    message:
        "Measure how fast the models of ensemble {wildcards.ensemble} read side by side"
    shell:
        "python -m ocsrflow speed_prediction {input.data:q} --name {wildcards.ensemble:q} "
        "--weights {input.weights:q} --descriptions {input.descriptions:q} --choice {input.choice:q} "
        "--reading {params.reading:q} --test-set {params.test_set:q} "
        "{params.pictures:q} --timed-images {params.timed_images} --gpus {params.gpus} "
        "--granted {resources.gpu} --threads {threads} --out {output:q} > {log:q} 2>&1"
