# ocsrflow: pictures of molecules to SMILES, from PubChem to the report.
#
#   snakemake --cores all --resources gpu=4                        the full experiment of config.yaml
#   snakemake --workflow-profile workflow/profiles/demo            the small demonstration
#   snakemake search --cores all --resources gpu=4                 the searches for settings alone

from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/pictures.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/prediction.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/tracking.smk"


# On a cluster these run on the head node: they need the network, or take seconds.
localrules:
    all,
    calibrate,
    choose,
    constant,
    datasets,
    download,
    promote,
    record,
    record_search,
    report,
    score,
    search,
    search_page,
    search_table,
    tracking,
    weights,


onstart:
    begin()


onsuccess:
    close_mlflow("FINISHED")
    last_words()


onerror:
    close_mlflow("FAILED")


rule search:
    input:
        expand("<results>/report/searches/{search}.html", search=plan.searches),
        expand("<results>/searches/{search}/runs.json", search=plan.searches),


rule all:
    default_target: True
    input:
        "<results>/report/index.html",
        expand("<results>/report/data/{dataset}.html", dataset=plan.datasets),
        "<results>/runs.json",
        rules.search.input,


rule datasets:
    input:
        expand("<results>/datasets/{dataset}/images.h5", dataset=plan.datasets),
