# Ensembles: choose → vote. Confidences: calibrate.


rule choose:
    input:
        predictions=plan.of_members(f"<results>/predictions/{settings.SELECTION}/{{member}}.parquet"),
        facts=plan.of_members(f"<results>/predictions/{settings.SELECTION}/{{member}}.json"),
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


rule vote:
    input:
        predictions=plan.of_members("<results>/predictions/{test_set}/{member}.parquet"),
        facts=plan.of_members("<results>/predictions/{test_set}/{member}.json"),
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


rule calibrate:
    input:
        predictions=f"<results>/predictions/{settings.SELECTION}/{{reader}}.parquet",
        redrawn=plan.redrawn(settings.SELECTION),
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
        code=code_version("ensemble.calibrate"),
        redrawn=given("redrawn"),
    message:
        "Learn on validation pictures how far {wildcards.reader} is to be trusted"
    shell:
        "python -m ocsrflow calibrate {input.predictions:q} {params.redrawn:q} --processes {threads} "
        "--out {output:q} > {log:q} 2>&1"
