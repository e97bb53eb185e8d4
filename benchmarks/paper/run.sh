#!/usr/bin/env bash
# The paper's tables on the real sections, by `scjepa benchmark`:
#
#   export SCJEPA_DATA=...                     # the folder of the data
#   bash benchmarks/peers/setup.sh             # for the peers
#   export SCJEPA_PEERS_PYTHON=~/.cache/scjepa/peers/bin/python
#   bash benchmarks/paper/run.sh quick         # ST-JEPA demo and the controls, one seed: V1, V1 × osmFISH
#   bash benchmarks/paper/run.sh table1        # every method, three seeds, every set and pair
#   bash benchmarks/paper/run.sh pairs         # the pairs of table1 with the preset technologies and aligned read-outs
#   bash benchmarks/paper/run.sh table2        # every axis on V1, its best and worst on a simulated set, metatoken and
#                                              # objective on a pair, three seeds; the grid with one
#   bash benchmarks/paper/run.sh table1 V1     # one set of it
#
# METHODS="stjepa controls" SEEDS=1 STEPS=150 TIMEOUT=1500 before the command take less: some methods, fewer seeds, fewer
# steps of ST-JEPA in table2 (450), less time for a peer (7200 s); LENGTHS=16,32,64,128 leaves the long sequences of table2
# to a GPU. PRESET=technologies sets another of ST-JEPA beside `base` in table1. OPTIONS="novae.settings=tutorial" are
# options of methods, here to leave out the graph on which Novae takes hours. What is there already is never run again.
#
# Finished runs are kept in SCJEPA_PAPER_OUT (~/.cache/scjepa/paper), and the same command goes on there; tables are
# copied to benchmarks/paper/results/. How long each takes is in README.md.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
what="${1:-}"
only="${2:-}"
data="${SCJEPA_DATA:?Set SCJEPA_DATA to the folder of the data.}"
kept="${SCJEPA_PAPER_OUT:-${XDG_CACHE_HOME:-$HOME/.cache}/scjepa/paper}"
python="${PYTHON:-python}"
# Both or neither: when clustering first runs, numba sets torch's threads to its own number.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" NUMBA_NUM_THREADS="${NUMBA_NUM_THREADS:-1}"

v1="$data/spatial/starmap_visual_cortex.h5ad"
osmfish="$data/spatial/osmfish_somatosensory_cortex.h5ad"
mpfc="$data/spatial/starmap_mpfc_3sections.h5ad"
molcart="$data/spatial/molcart_mouse_cortex_3sections.h5ad"
brain="$kept/brain.h5ad"  # made from the data by semisynthetic.py

run() { # NAME OPTIONS...: compare, keep runs under NAME, copy tables
    local name="$1"
    shift
    if [[ -n "$only" && "$name" != "$what-$only" ]]; then return; fi
    local options=() option
    for option in ${OPTIONS:-}; do options+=(--option "$option"); done
    "$python" -m scjepa.cli benchmark --out "$kept/$name" --accelerator "${ACCELERATOR:-auto}" "$@" "${options[@]}"
    mkdir -p "$here/results/$name"
    cp "$kept/$name"/{table1.csv,table1.md,runs.csv} "$here/results/$name/"
    if [[ -f "$kept/$name/table2.csv" ]]; then cp "$kept/$name"/table2.{csv,md} "$here/results/$name/"; fi
}

on_v1_osmfish=(--data "$v1" "$osmfish" --label region_harmonised --tasks technologies)
on_v1_mpfc=(--data "$v1" "$mpfc" --label region_harmonised --tasks technologies)
on_molcart_v1=(--data "$molcart" "$v1" --label region_harmonised --tasks technologies)

quick() {
    local how=(--methods stjepa controls --preset demo --seeds 1 --leiden-seeds 1)
    run quick-V1 --data "$v1" --label region "${how[@]}"
    run quick-V1xosmFISH "${on_v1_osmfish[@]}" "${how[@]}"
}

table1() {
    local how=(--methods ${METHODS:-all} --preset "${PRESET:-base}" --seeds "${SEEDS:-3}" --timeout "${TIMEOUT:-7200}")
    if [[ ! -f "$brain" ]]; then
        mkdir -p "$kept"
        "$python" "$here/semisynthetic.py" "$data" "$brain"
    fi
    run table1-V1 --data "$v1" --label region "${how[@]}"
    run table1-brain --data "$brain" --label region "${how[@]}"
    run table1-osmFISH --data "$osmfish" --label region "${how[@]}"
    run table1-mPFC --data "$mpfc" --label region "${how[@]}"
    run table1-V1xosmFISH "${on_v1_osmfish[@]}" "${how[@]}"
    run table1-V1xmPFC "${on_v1_mpfc[@]}" "${how[@]}"
    run table1-molcartxV1 "${on_molcart_v1[@]}" "${how[@]}"
}

# The pairs with the preset that is made for several technologies, and read-outs that give sections one covariance.
pairs() {
    local how=(--methods ${METHODS:-all} --preset technologies --seeds "${SEEDS:-3}" --timeout "${TIMEOUT:-7200}"
        --readouts plain z30 hops aligned30 aligned_hops)
    run pairs-V1xosmFISH "${on_v1_osmfish[@]}" "${how[@]}"
    run pairs-V1xmPFC "${on_v1_mpfc[@]}" "${how[@]}"
    run pairs-molcartxV1 "${on_molcart_v1[@]}" "${how[@]}"
}

# The axes of the paper's Table 2, from the demo's configuration.
axes=(
    --ablate "tokens.n_tokens=${LENGTHS:-16,32,64,128,256,512}"
    --ablate masking.ratio=0.3,0.5,0.6,0.7,0.9
    --ablate masking.scheme=stratified,whole_cell,target_cell,uniform,rank_span,mixture
    --ablate tokens.tokenizer=graph,neighborhood
    --grid tokens.tokenizer=neighborhood tokens.n_tokens=64,256
    --grid tokens.tokenizer=neighborhood encoder.value=none
    --grid tokens.tokenizer=neighborhood encoder.rank=none
    --ablate tokens.ties=order,shared
    --ablate encoder.value=mlp,bound,none
    --grid encoder.value=bins encoder.n_bins=20,50,100
    --ablate encoder.rank=sinusoidal,none
    --ablate encoder.segment=sinusoidal,coordinate,none
    --ablate objective.name=ijepa,lejepa
    --ablate objective.query=gene,rank
    --ablate objective.target_view=all,masked
    --ablate objective.target_norm=layer,none
)
# What takes several technologies to show: the technology token, and version 1 with its adversary, which needs batches of
# several technologies (and batches alone, to tell the two apart).
axes_of_pairs=(
    --ablate encoder.metatoken=true,false
    --ablate training.batches=section,mixed
    --grid objective.name=lejepa training.batches=mixed objective.adversarial_weight=0,0.1,1
)
normalizations="counts,shifted_log,nonzero_mean,pearson_residuals,seurat_v3"

table2() {
    local simulated="$kept/simulated_medium.h5ad"
    if [[ ! -f "$simulated" ]]; then
        mkdir -p "$kept"
        "$python" -c "import sys; from scjepa import datasets
datasets.simulated_tissue(3000, difficulty='medium', seed=0).write_h5ad(sys.argv[1])" "$simulated"
    fi
    local methods=(--methods ${METHODS:-stjepa controls})
    local how=("${methods[@]}" --preset demo --option "stjepa.training.max_steps=${STEPS:-450}")
    local grid=(--grid "tokens.values=$normalizations" "tokens.ranks=$normalizations")
    local aligned=(--readouts plain z30 hops aligned30 aligned_hops)
    run table2-V1 --data "$v1" --label region "${how[@]}" --seeds "${SEEDS:-3}" "${axes[@]}"
    run table2-grid-V1 --data "$v1" --label region "${how[@]}" --seeds 1 "${grid[@]}"
    run table2-lejepa-V1 --data "$v1" --label region "${how[@]}" --option stjepa.objective.name=lejepa \
        --seeds "${SEEDS:-3}" --ablate objective.sigreg_share=0.01,0.02,0.05,0.2,0.5
    run table2-V1xosmFISH "${on_v1_osmfish[@]}" "${methods[@]}" --preset technologies --seeds "${SEEDS:-3}" \
        "${axes_of_pairs[@]}" "${aligned[@]}"
    # The default, and the best and the worst level of V1.
    local extremes
    mapfile -t extremes < <("$python" "$here/extremes.py" "$here/results/table2-V1/table2.csv")
    run table2-simulated --data "$simulated" --label region "${how[@]}" --seeds "${SEEDS:-3}" "${extremes[@]}"
}

case "$what" in
    quick | table1 | pairs | table2) "$what" ;;
    *) echo "usage: bash $0 quick|table1|pairs|table2 [SET]" >&2; exit 2 ;;
esac
