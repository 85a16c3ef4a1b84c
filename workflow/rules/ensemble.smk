# Ensembles: choose → rescore → vote. Baselines. The scores of all.


rule choose:
    input:
        predictions=plan.of_members(f"<results>/predictions/{settings.SELECTION}/{{model}}.parquet"),
        facts=plan.of_members(f"<results>/predictions/{settings.SELECTION}/{{model}}.json"),
    output:
        "<results>/ensembles/{ensemble}.json",
    log:
        "<logs>/choose/{ensemble}.log",
    benchmark:
        "<benchmarks>/choose/{ensemble}.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code_version("ensemble.choose"),
        # Snakemake compares inputs as a set, but the order of the members decides ties.
        members=plan.members,
        selection=lambda wildcards: plan.ensembles[wildcards.ensemble].selection,
        largest=lambda wildcards: option("--largest", plan.ensembles[wildcards.ensemble].largest),
    message:
        "Choose the members of ensemble {wildcards.ensemble} by their validation scores"
    shell:
        "python -m ocsrflow choose --predictions {input.predictions:q} --member-facts {input.facts:q} "
        "--name {wildcards.ensemble:q} --selection {params.selection:q} {params.largest:q} --processes {threads} "
        "--out {output:q} > {log:q} 2>&1"


rule rescore:
    input:
        data=plan.test_pictures,
        predictions=plan.of_members("<results>/predictions/{test_set}/{model}.parquet"),
        facts=plan.of_members("<results>/predictions/{test_set}/{model}.json"),
        weights=plan.of_members("<results>/models/{model}/weights.safetensors"),
        descriptions=plan.of_members("<results>/models/{model}/model.json"),
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
        members=plan.members,
        batch=CONFIG.prediction.batch,
        timed_images=CONFIG.prediction.timed_images,
        precision=CONFIG.prediction.precision,
    message:
        "The models of ensemble {wildcards.ensemble} score each other's candidates on {wildcards.test_set}"
    shell:
        "python -m ocsrflow rescore {input.data:q} --gpus {resources.gpu} --predictions {input.predictions:q} "
        "--member-facts {input.facts:q} --weights {input.weights:q} --descriptions {input.descriptions:q} "
        "--batch {params.batch} --timed-images {params.timed_images} --precision {params.precision:q} "
        "--threads {threads} --out {output.likelihoods:q} --facts {output.facts:q} > {log:q} 2>&1"


rule vote:
    input:
        predictions=plan.of_members("<results>/predictions/{test_set}/{model}.parquet"),
        facts=plan.of_members("<results>/predictions/{test_set}/{model}.json"),
        redrawn=plan.redrawn_of_members("parquet"),
        redrawn_facts=plan.redrawn_of_members("json"),
        # For every method: the log-probability of its answer by all members is a sign of trust.
        likelihoods="<results>/likelihoods/{test_set}/{ensemble}.parquet",
        likelihood_facts="<results>/likelihoods/{test_set}/{ensemble}.json",
        choice="<results>/ensembles/{ensemble}.json",
    output:
        expand("<results>/predictions/{{test_set}}/{{ensemble}}{suffix}.parquet", suffix=[*plan.suffixes, ".oracle"]),
        expand("<results>/predictions/{{test_set}}/{{ensemble}}{suffix}.json", suffix=[*plan.suffixes, ".oracle"]),
    log:
        "<logs>/vote/{test_set}-{ensemble}.log",
    benchmark:
        "<benchmarks>/vote/{test_set}-{ensemble}.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        code=code_version("ensemble.vote"),
        members=plan.members,
        methods=CONFIG.methods,
        redrawn=given("redrawn", "redrawn_facts"),
        folder=fill_paths("<results>/predictions/{test_set}"),
    message:
        "The models of ensemble {wildcards.ensemble} vote on {wildcards.test_set}"
    shell:
        "python -m ocsrflow vote --predictions {input.predictions:q} --member-facts {input.facts:q} "
        "{params.redrawn:q} --likelihoods {input.likelihoods:q} --likelihood-facts {input.likelihood_facts:q} "
        "--choice {input.choice:q} --name {wildcards.ensemble:q} --methods {params.methods:q} "
        "--processes {threads} --folder {params.folder:q} > {log:q} 2>&1"


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
