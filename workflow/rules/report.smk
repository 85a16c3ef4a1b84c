# Pages: attention, what is in each data set, the report with everything.


rule attend:
    input:
        data=f"<results>/datasets/{plan.main.dataset}/images.h5",
        weights="<results>/models/{model}/weights.safetensors",
        description="<results>/models/{model}/model.json",
        predictions=f"<results>/predictions/{plan.main.name}/{{model}}.parquet",
        scores=f"<results>/scores/{plan.main.name}/{{model}}.parquet",
    output:
        "<results>/attention/{model}.parquet",
    log:
        "<logs>/attend/{model}.log",
    benchmark:
        "<benchmarks>/attend/{model}.tsv"
    conda:
        CONDA["report"]
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        code=code_version("report.attend"),
        size=CONFIG.report.attention,
    message:
        "Draw where {wildcards.model} looked"
    shell:
        "python -m ocsrflow attend {input.data:q} --weights {input.weights:q} --description {input.description:q} "
        "--predictions {input.predictions:q} --scores {input.scores:q} --size {params.size} --threads {threads} "
        "--out {output:q} > {log:q} 2>&1"


rule browse:
    input:
        data="<results>/datasets/{dataset}/images.h5",
        others=expand("<results>/datasets/{dataset}/images.h5", dataset=plan.datasets),
        lengths="<results>/datasets/{dataset}/lengths.csv",
        not_kept=plan.of_source("rejects.csv"),
        not_drawn="<results>/datasets/{dataset}/rejects/sample.csv",
        not_packed="<results>/datasets/{dataset}/rejects/pack.csv",
        templates=templates("browse.html"),
    output:
        report(
            "<results>/report/data/{dataset}.html",
            caption="../report/browse.rst",
            category="Data",
            labels={"data set": "{dataset}"},
        ),
    log:
        "<logs>/browse/{dataset}.log",
    benchmark:
        "<benchmarks>/browse/{dataset}.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code_version("report.browse"),
    message:
        "Show what is in data set {wildcards.dataset}"
    shell:
        "python -m ocsrflow browse {input.data:q} --others {input.others:q} --lengths {input.lengths:q} "
        "--rejects {input.not_kept:q} {input.not_drawn:q} {input.not_packed:q} --out {output:q} > {log:q} 2>&1"


rule report:
    input:
        scores=expand("<results>/scores/{test_set}/{reader}.json", test_set=plan.test_sets, reader=plan.readers),
        images=expand("<results>/scores/{test_set}/{reader}.parquet", test_set=plan.test_sets, reader=plan.readers),
        predictions=expand(
            "<results>/predictions/{test_set}/{reader}.parquet", test_set=plan.test_sets, reader=plan.readers
        ),
        drawn_scores=expand(
            "<results>/scores/{drawing}/{reader}.json", drawing=plan.drawings, reader=plan.readers_of_drawings
        ),
        models=expand("<results>/models/{model}/model.json", model=plan.models),
        metrics=expand("<results>/models/{model}/metrics.jsonl", model=plan.models),
        corpora=expand("<results>/corpus/{source}/lengths.csv", source=plan.sources),
        samples=expand("<results>/datasets/{dataset}/lengths.csv", dataset=plan.datasets),
        data=expand("<results>/datasets/{dataset}/images.h5", dataset=plan.packed),
        rejects=expand("<results>/corpus/{source}/rejects.csv", source=plan.sources)
        + expand("<results>/datasets/{dataset}/rejects/sample.csv", dataset=plan.datasets)
        + expand("<results>/datasets/{dataset}/rejects/pack.csv", dataset=plan.datasets)
        + expand("<results>/datasets/{benchmark}/rejects/benchmark_set.csv", benchmark=plan.benchmarks)
        + expand("<results>/datasets/{drawing}/rejects/draw_set.csv", drawing=plan.drawings),
        choices=expand("<results>/ensembles/{ensemble}.json", ensemble=plan.ensembles),
        speed_training=expand("<results>/speed/training/{model}.json", model=plan.timed_models),
        speed_prediction=expand("<results>/speed/prediction/{ensemble}.json", ensemble=plan.timed_ensembles),
        attention=expand("<results>/attention/{model}.parquet", model=plan.models if CONFIG.report.attention else []),
        templates=templates("report.html"),
    output:
        page=report(
            "<results>/report/index.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "everything, one file"},
        ),
        # Which ones there are depends on what was measured.
        figures=report(
            directory("<results>/report/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            labels=lambda wildcards: {"figure": caption_of(wildcards.figure).title},
        ),
        summary="<results>/report/summary.json",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        CONDA["report"]
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        code=code_version("report.report"),
        results=lambda wildcards: fill_paths("<results>"),
        # The report shows the whole configuration, which is too long for a command line: the start of the run writes
        # it down.
        config=provenance.hash_of(CONFIG),
        captions=CAPTIONS,  # for Snakemake's own report
        texts=plan.report_texts(),
        gallery=CONFIG.report.gallery,
        order=plan.readers,  # of the rows, which the set of inputs does not tell
        # With the data set each is taken from; the members of an ensemble are in its file.
        test_sets=[f"{name}={test_set.dataset}" for name, test_set in plan.test_sets.items()],
        robustness=plan.robustness(),
        others=given("drawn_scores", "choices", "speed_training", "speed_prediction", "attention"),
    message:
        "Write the report"
    shell:
        "python -m ocsrflow report {params.texts:q} --gallery {params.gallery} "
        "--test-sets {params.test_sets:q} --scores {input.scores:q} --images {input.images:q} "
        "--predictions {input.predictions:q} --models {input.models:q} --metrics {input.metrics:q} "
        "--corpora {input.corpora:q} --samples {input.samples:q} --data {input.data:q} "
        "--rejects {input.rejects:q} {params.robustness:q} {params.others:q} "
        "--results {params.results:q} --out {output.page:q} --drawings {output.figures:q} "
        "--summary {output.summary:q} > {log:q} 2>&1"
