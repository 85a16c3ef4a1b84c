# Searches for settings by successive halving: trial → promote → trial → … → search_table → search_page, record_search.
# In the first rung a trial's place is its number, in later ones its rank in the rung before: so all jobs are known when
# the run is planned.


rule trial:
    input:
        data=plan.training_data,
        weights=plan.imagenet_weights,
        parent=plan.parent_files,
        promoted=plan.promoted,
    output:
        "<results>/searches/{search}/rung-{rung}/{place}.json",
    log:
        "<logs>/trial/{search}-{rung}-{place}.log",
    benchmark:
        "<benchmarks>/trial/{search}-{rung}-{place}.tsv"
    conda:
        CONDA["train"]
    threads: 8
    resources:
        gpu=plan.gpus,
        mem_mb=32000,
        runtime=2880,
    params:
        code=code_version("search.trial", "training.train"),
        network=lambda wildcards: plan.model_of(wildcards).network.model_dump_json(),
        training=lambda wildcards: plan.model_of(wildcards).training.model_dump_json(),
        dataset=lambda wildcards: plan.model_of(wildcards).dataset,
        space=lambda wildcards: space_to_json(plan.searches[wildcards.search].space),
        seed=lambda wildcards: plan.searches[wildcards.search].seed,
        epochs=lambda wildcards: plan.searches[wildcards.search].rungs[int(wildcards.rung)],
        given=given("weights", "promoted"),
        # No output, as for a training: a rung goes on from the checkpoints of the rung before.
        checkpoints=fill_paths("<results>/checkpoints"),
        minutes=CONFIG.checkpoints.minutes,
        # As configured; the resource is what --resources left of it, without a word.
        gpus=plan.gpus,
    message:
        "Train trial {wildcards.place} of rung {wildcards.rung} of search {wildcards.search} (gpu={resources.gpu}, {threads} threads)"
    shell:
        # A signal to the whole group leaves this shell to wait for the training, which saves.
        "trap : INT TERM HUP USR1; "
        "python -m ocsrflow trial {input.data:q} --search {wildcards.search:q} --rung {wildcards.rung} "
        "--place {wildcards.place} --epochs {params.epochs} --space {params.space:q} --seed {params.seed} "
        "--network {params.network:q} --training {params.training:q} --dataset {params.dataset:q} {params.given:q} "
        "--checkpoints {params.checkpoints:q} --checkpoint-minutes {params.minutes} --gpus {params.gpus} "
        "--granted {resources.gpu} --threads {threads} --out {output:q} > {log:q} 2>&1"


rule promote:
    input:
        plan.trials_of_rung,
    output:
        "<results>/searches/{search}/rung-{rung}.json",
    log:
        "<logs>/promote/{search}-{rung}.log",
    conda:
        CONDA["chem"]
    params:
        code=code_version("search.promote"),
        # Of hundreds of trials, whose names are long together.
        folder=fill_paths("<results>/searches/{search}"),
        places=plan.places,
        kept=lambda wildcards: plan.searches[wildcards.search].places[int(wildcards.rung) + 1],
        metric=lambda wildcards: plan.searches[wildcards.search].metric,
    message:
        "Choose the trials of rung {wildcards.rung} of search {wildcards.search} that go on"
    shell:
        "python -m ocsrflow promote {params.folder:q} --rung {wildcards.rung} --places {params.places} "
        "--kept {params.kept} --metric {params.metric:q} --out {output:q} > {log:q} 2>&1"


rule search_table:
    input:
        plan.trials_of_search,
    output:
        table="<results>/searches/{search}/table.csv",
        best="<results>/searches/{search}/best.yaml",
        facts="<results>/searches/{search}/search.json",
    log:
        "<logs>/search_table/{search}.log",
    conda:
        CONDA["report"]
    params:
        code=code_version("search.search_table"),
        folder=fill_paths("<results>/searches/{search}"),
        search=lambda wildcards: plan.searches[wildcards.search].model_dump_json(),
        entry=plan.searched_entry,
        gpus=plan.gpus,
    message:
        "Write the table of search {wildcards.search}"
    shell:
        "python -m ocsrflow search_table {params.folder:q} --search {params.search:q} --entry {params.entry:q} "
        "--gpus {params.gpus} --table {output.table:q} --best {output.best:q} --out {output.facts:q} > {log:q} 2>&1"


rule search_page:
    input:
        facts="<results>/searches/{search}/search.json",
        templates=templates("search.html"),
    output:
        report(
            "<results>/report/searches/{search}.html",
            caption="../report/search.rst",
            category="Searches",
            labels={"search": "{search}"},
        ),
    log:
        "<logs>/search_page/{search}.log",
    conda:
        CONDA["report"]
    params:
        code=code_version("report.search_page"),
    message:
        "Show what search {wildcards.search} found"
    shell:
        "python -m ocsrflow search_page {input.facts:q} --out {output:q} > {log:q} 2>&1"


rule record_search:
    input:
        facts="<results>/searches/{search}/search.json",
        table="<results>/searches/{search}/table.csv",
        best="<results>/searches/{search}/best.yaml",
        page="<results>/report/searches/{search}.html",
        data=plan.training_data,
        tracking="<results>/tracking.json",
    output:
        "<results>/searches/{search}/runs.json",
    log:
        "<logs>/record_search/{search}.log",
    conda:
        CONDA["report"]
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code_version("tracking.record_search"),
        results=lambda wildcards: fill_paths("<results>"),
    message:
        "Record search {wildcards.search} in MLflow"
    shell:
        "python -m ocsrflow record_search {params.results:q} --name {wildcards.search:q} --out {output:q} "
        "> {log:q} 2>&1"
