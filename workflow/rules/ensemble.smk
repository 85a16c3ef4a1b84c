# Ensembles: choose → rescore → ensemble. Baselines. The scores of all.


rule choose:
    input:
        predictions=members_files(f"predictions/{settings.SELECTION}/{{model}}.parquet"),
        facts=members_files(f"predictions/{settings.SELECTION}/{{model}}.json"),
        code=modules("choose"),
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
        # Snakemake compares inputs as a set, but the order of the members decides ties.
        members=lambda wildcards: ENSEMBLES[wildcards.ensemble].models,
        selection=lambda wildcards: ENSEMBLES[wildcards.ensemble].selection,
        largest=lambda wildcards: option("--largest", [str(n) for n in [ENSEMBLES[wildcards.ensemble].largest] if n]),
    message:
        "Choose the members of ensemble {wildcards.ensemble} by their validation scores"
    shell:
        "python -m ocsrflow.choose --predictions {input.predictions:q} --member-facts {input.facts:q} "
        "--name {wildcards.ensemble:q} --selection {params.selection:q} {params.largest:q} --processes {threads} "
        "--out {output:q} 2>&1 | tee {log:q}"


rule rescore:
    input:
        data=test_pictures,
        predictions=members_files("predictions/{test_set}/{model}.parquet"),
        facts=members_files("predictions/{test_set}/{model}.json"),
        weights=members_files("models/{model}/weights.safetensors"),
        descriptions=members_files("models/{model}/model.json"),
        code=modules("rescore"),
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
        gpu=lambda wildcards: int(on_gpu(wildcards)),
        mem_mb=16000,
        runtime=240,
    params:
        members=lambda wildcards: ENSEMBLES[wildcards.ensemble].models,
        batch=CONFIG.prediction.batch,
        timed_images=CONFIG.prediction.timed_images,
        precision=CONFIG.prediction.precision,
    message:
        "The models of ensemble {wildcards.ensemble} score each other's candidates on {wildcards.test_set}"
    shell:
        "python -m ocsrflow.rescore {input.data:q} --gpus {resources.gpu} --predictions {input.predictions:q} "
        "--member-facts {input.facts:q} --weights {input.weights:q} --descriptions {input.descriptions:q} "
        "--batch {params.batch} --timed-images {params.timed_images} --precision {params.precision:q} --threads {threads} "
        "--out {output.likelihoods:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule ensemble:
    input:
        predictions=members_files("predictions/{test_set}/{model}.parquet"),
        facts=members_files("predictions/{test_set}/{model}.json"),
        redrawn=redrawn_members(".parquet"),
        redrawn_facts=redrawn_members(".json"),
        # For every method: the log-probability of its answer by all members is a sign of trust.
        likelihoods="<results>/likelihoods/{test_set}/{ensemble}.parquet",
        likelihood_facts="<results>/likelihoods/{test_set}/{ensemble}.json",
        choice="<results>/ensembles/{ensemble}.json",
        code=modules("ensemble"),
    output:
        expand("<results>/predictions/{{test_set}}/{{ensemble}}{suffix}.parquet", suffix=[*SUFFIXES, ".oracle"]),
        expand("<results>/predictions/{{test_set}}/{{ensemble}}{suffix}.json", suffix=[*SUFFIXES, ".oracle"]),
    log:
        "<logs>/ensemble/{test_set}-{ensemble}.log",
    benchmark:
        "<benchmarks>/ensemble/{test_set}-{ensemble}.tsv"
    conda:
        CONDA["chem"]
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        members=lambda wildcards: ENSEMBLES[wildcards.ensemble].models,
        methods=CONFIG.methods,
        redrawn=lambda wildcards, input: option("--redrawn", input.redrawn)
        + option("--redrawn-facts", input.redrawn_facts),
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    message:
        "The models of ensemble {wildcards.ensemble} vote on {wildcards.test_set}"
    shell:
        "python -m ocsrflow.ensemble --predictions {input.predictions:q} --member-facts {input.facts:q} "
        "{params.redrawn:q} --likelihoods {input.likelihoods:q} --likelihood-facts {input.likelihood_facts:q} --choice {input.choice:q} --name {wildcards.ensemble:q} "
        "--methods {params.methods:q} --processes {threads} --folder {params.folder:q} 2>&1 | tee {log:q}"


rule constant:
    input:
        data=test_pictures,
        candidates=training_molecules,
        code=modules("constant"),
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
        pictures=which_pictures,
    message:
        "Find the best constant answer for {wildcards.test_set}"
    shell:
        "python -m ocsrflow.constant {input.data:q} {params.pictures:q} --candidates {input.candidates:q} "
        "--processes {threads} --out {output.predictions:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule osra:
    input:
        data=test_pictures,
        originals=original_pictures,
        code=modules("osra"),
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
        pictures=which_pictures,
        originals=lambda wildcards, input: option("--originals", input.get("originals", [])),
        # Once it is installed, it is asked.
        program=bool(shutil.which("osra")),
    message:
        "OSRA reads the pictures of {wildcards.test_set}"
    shell:
        "python -m ocsrflow.osra {input.data:q} {params.originals:q} {params.pictures:q} --processes {threads} "
        "--out {output.predictions:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule score:
    input:
        predictions="<results>/predictions/{test_set}/{reader}.parquet",
        facts="<results>/predictions/{test_set}/{reader}.json",
        redrawn=redrawn_files("{test_set}"),
        calibration=calibration_of,
        code=modules("score"),
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
        trust=lambda wildcards, input: option("--redrawn", input.redrawn) + option("--calibration", input.calibration),
    message:
        "Score {wildcards.reader} on {wildcards.test_set}"
    shell:
        "python -m ocsrflow.score {input.predictions:q} --facts {input.facts:q} --test-set {wildcards.test_set:q} "
        "{params.trust:q} --processes {threads} --out {output.scores:q} --images {output.images:q} 2>&1 | tee {log:q}"
