"""LoFiT Bench: models x tasks x methods, one node each; see docs/architecture.md."""

from snakemake.utils import min_version

min_version("9.0")

if not workflow.overwrite_configfiles:  # a file given with --configfile replaces the default, it does not extend it

    configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/nodes.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        all_outputs(),


onstart:
    write_snapshot(CONFIG)


onsuccess:
    sweep()


onerror:
    sweep()
