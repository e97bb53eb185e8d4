#!/usr/bin/env bash
# Cell-JEPA beside its controls, PCA and scVI on real sets, by `scjepa benchmark --target`:
#
#   export SCJEPA_DATA=...                             # the folder of the data
#   bash benchmarks/cells/run.sh quick                 # 20 steps on pbmc3k, one seed: does it work? Scores mean nothing
#   bash benchmarks/cells/run.sh pbmc                  # zero-shot, fewer molecules and fine-tuning on pbmc4k_half, three seeds
#   bash benchmarks/cells/run.sh batches               # scib-metrics on pbmc_2batch and the cell lines, three seeds
#   bash benchmarks/cells/run.sh others                # zero-shot on sets that the recipe was not chosen on, three seeds
#   bash benchmarks/cells/run.sh pbmc --max-steps 1000 --set objective.target_norm=batch   # further options are passed on
#
# Finished runs and pretrained models are kept in SCJEPA_CELLS_OUT (~/.cache/scjepa/cells), and the same command goes on
# there; tables are copied to benchmarks/cells/results/. trials.py and perturbation.py are commands of their own.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
what="${1:-}"
shift || true
data="${SCJEPA_DATA:?Set SCJEPA_DATA to the folder of the data.}/single_cell"
kept="${SCJEPA_CELLS_OUT:-${XDG_CACHE_HOME:-$HOME/.cache}/scjepa/cells}"
python="${PYTHON:-python}"
# Both or neither: when clustering first runs, numba sets torch's threads to its own number.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" NUMBA_NUM_THREADS="${NUMBA_NUM_THREADS:-1}"

# Blood from three sources; their labels are not read.
blood=("$data/pbmc3k.h5ad" "$data/pbmc_donorA_unlabelled.h5ad" "$data/pbmc_kang_harmony2k.h5ad")
# Labels of pbmc4k_half that name no cell type.
target=(--target "$data/pbmc4k_half.h5ad" --label cell_type --no-label Other unassigned unlabelled)

highly_variable() { # FILE EXPRESSION: the cells of a Python expression with their 2,000 genes that vary most; once
    if [[ -f "$1" ]]; then return; fi
    mkdir -p "$kept"
    (cd "$here" && "$python" -c "import sys, sets
from scjepa import datasets
sets.highly_variable($2).write_h5ad(sys.argv[1])" "$1")
}

joined() { # the three sets of blood, with the genes that vary most within them, as is usual
    highly_variable "$kept/blood_2000_genes.h5ad" "sets.corpus()"
    blood=("$kept/blood_2000_genes.h5ad")
}

# A cell of the lines expresses some 5,000 genes: embedding all of them takes minutes a run on a CPU.
cell_lines() { # TASKS AND OPTIONS...
    local file="$kept/celllines_2000_genes.h5ad"
    highly_variable "$file" "datasets.load('celllines_sc_mixology')"
    run celllines --target "$file" --label cell_type --batch batch --seeds 3 --tasks "$@"
}

run() { # NAME OPTIONS...: compare, keep runs under NAME, copy tables
    local name="$1"
    shift
    "$python" -m scjepa.cli benchmark --out "$kept/$name" --models "$kept/models" \
        --accelerator "${ACCELERATOR:-auto}" "$@"
    mkdir -p "$here/results/$name"
    cp "$kept/$name"/{results.csv,runs.csv,table.csv,table.md,differences.csv} "$here/results/$name/"
}

quick() {
    run quick --pretrain "$data/pbmc3k.h5ad" "${target[@]}" --seeds 1 --max-steps 20 --finetune-epochs 1 \
        --option scvi.max_epochs=5 --n-tokens 200 --set tokens.n_tokens=200 --set tokens.n_embedded=200 --resolutions 0.2 0.4 0.8 "$@"
}

pbmc() {
    joined
    run pbmc --pretrain "${blood[@]}" "${target[@]}" --seeds 3 "$@"
}

# pbmc_2batch: half of it is pbmc3k, which was pretrained on. The cell lines have Ensembl ids, of which a model of blood
# knows none: models are trained on them, without labels.
batches() {
    joined
    run pbmc_2batch --pretrain "${blood[@]}" --target "$data/pbmc_2batch.h5ad" --label cell_type --batch batch \
        --tasks batches --seeds 3 "$@"
    cell_lines batches "$@"
}

# Sets that no option was chosen on. Stimulated blood by the models of `pbmc`; the cell lines as in `batches`.
others() {
    joined
    run pbmc_kang_muscat --pretrain "${blood[@]}" --target "$data/pbmc_kang_muscat.h5ad" --label cell_type \
        --tasks zero_shot --seeds 3 "$@"
    cell_lines zero_shot "$@"
}

case "$what" in
    quick | pbmc | batches | others) "$what" "$@" ;;
    *) echo "usage: bash $0 quick|pbmc|batches|others [OPTIONS OF scjepa benchmark]" >&2; exit 2 ;;
esac
