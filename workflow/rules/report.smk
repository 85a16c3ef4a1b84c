# The report: one page with everything.


rule attend:
    input:
        data=f"{CONFIG.results}/datasets/{CONFIG.test_sets[0].dataset}/images.h5",
        weights="<results>/models/{model}/weights.safetensors",
        description="<results>/models/{model}/model.json",
        predictions=f"{CONFIG.results}/predictions/{CONFIG.test_sets[0].name}/{{model}}.parquet",
        scores=f"{CONFIG.results}/scores/{CONFIG.test_sets[0].name}/{{model}}.parquet",
        code=modules("attend"),
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
        size=CONFIG.report.attention,
    message:
        "Draw where {wildcards.model} looked"
    shell:
        "python -m ocsrflow.attend {input.data:q} --weights {input.weights:q} --description {input.description:q} "
        "--predictions {input.predictions:q} --scores {input.scores:q} --size {params.size} --threads {threads} "
        "--out {output:q} 2>&1 | tee {log:q}"


rule report:
    input:
        scores=of_each("scores/{test_set}/{reader}.json", test_set=TEST_SETS, reader=READERS),
        images=of_each("scores/{test_set}/{reader}.parquet", test_set=TEST_SETS, reader=READERS),
        predictions=of_each("predictions/{test_set}/{reader}.parquet", test_set=TEST_SETS, reader=READERS),
        drawn_scores=of_each("scores/{drawing}/{reader}.json", drawing=DRAWINGS, reader=READERS_OF_DRAWINGS),
        models=of_each("models/{model}/model.json", model=MODELS),
        metrics=of_each("models/{model}/metrics.jsonl", model=MODELS),
        corpora=of_each("corpus/{source}/lengths.csv", source=SOURCES),
        samples=of_each("datasets/{dataset}/lengths.csv", dataset=DATASETS),
        data=of_each("datasets/{dataset}/images.h5", dataset=ALL_DATASETS),
        rejects=of_each("corpus/{source}/rejects.csv", source=SOURCES)
        + of_each("datasets/{dataset}/rejects/sample.csv", dataset=DATASETS)
        + of_each("datasets/{dataset}/rejects/pack.csv", dataset=DATASETS)
        + of_each("datasets/{benchmark}/rejects/benchmark_set.csv", benchmark=BENCHMARKS)
        + of_each("datasets/{drawing}/rejects/draw_set.csv", drawing=DRAWINGS),
        choices=of_each("ensembles/{ensemble}.json", ensemble=ENSEMBLES),
        speed_training=of_each("speed/training/{model}.json", model=CLOCKED_MODELS),
        speed_prediction=of_each("speed/prediction/{ensemble}.json", ensemble=CLOCKED_ENSEMBLES),
        attention=of_each("attention/{model}.parquet", model=MODELS if CONFIG.report.attention else []),
        code=modules("report"),
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
        results=lambda wildcards, output: str(Path(output.page).parent.parent),
        # The report shows the whole configuration, which is too long for a command line: the run's start writes it down.
        config=provenance.hash_of(CONFIG),
        captions=CAPTIONS,  # for Snakemake's own report
        # Texts may begin with a dash: joined to the option by "=", none is taken for another option.
        texts=[
            f"--{name}={text}" for name, text in (("title", CONFIG.report.title), ("note", CONFIG.report.note)) if text
        ],
        gallery=CONFIG.report.gallery,
        order=READERS,  # of the rows, which the set of inputs does not tell
        # With the data set each is taken from; the members of an ensemble are in its file.
        test_sets=[f"{name}={test_set.dataset}" for name, test_set in TEST_SETS.items()],
        # The table of robustness: the first test set as it is, its drawings, the benchmarks.
        robustness=lambda wildcards, input: option("--drawn-scores", input.drawn_scores)
        + option("--robustness", [CONFIG.test_sets[0].name, *DRAWINGS, *BENCHMARKS] if DRAWINGS else []),
        choices=lambda wildcards, input: option("--choices", input.choices),
        speed=lambda wildcards, input: option("--speed-training", input.speed_training)
        + option("--speed-prediction", input.speed_prediction)
        + option("--attention", input.attention),
    message:
        "Write the report"
    shell:
        "python -m ocsrflow.report {params.texts:q} --gallery {params.gallery} "
        "--test-sets {params.test_sets:q} --scores {input.scores:q} --images {input.images:q} "
        "--predictions {input.predictions:q} --models {input.models:q} --metrics {input.metrics:q} "
        "--corpora {input.corpora:q} --samples {input.samples:q} --data {input.data:q} "
        "--rejects {input.rejects:q} {params.robustness:q} {params.choices:q} {params.speed:q} --results {params.results:q} "
        "--out {output.page:q} --drawings {output.figures:q} --summary {output.summary:q} 2>&1 | tee {log:q}"
