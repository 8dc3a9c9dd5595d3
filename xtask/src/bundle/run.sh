#!/usr/bin/env bash
# Everything that a machine with a GPU can tell about this build: see README.txt beside this script.
set -u -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
python=${PYTHON:-python3}
# In the order in which they build on each other: what runs is right, what is right is fast, what is fast serves a model.
all_steps="environment doctor kernels case_table fused_cases contract memcheck racecheck fused_memcheck fused_racecheck bench_hopper attention_peers bench_masks bench_attention bench_heads bench_kernels planner train_7b train_13b train_lora train_qlora train_peer model speed evaluation smollm2"
# What a quarter of an hour is best spent on, the most valuable first; each is cut off at its share.
first_steps="environment case_table bench_hopper attention_peers fused_cases train_7b train_peer bench_masks bench_kernels"

lacks() {
    echo "run.sh: $*" >&2
    exit 2
}

# Seconds that a step may take with --first.
share_of() {
    case "$1" in
        case_table) echo 240 ;;
        bench_hopper | attention_peers | bench_masks | train_7b | train_peer) echo 75 ;;
        *) echo 60 ;;
    esac
}

first= rehearsal=
case "${1:-}" in
    "") ;;
    --first) first=yes; STEPS=${STEPS:-$first_steps} ;;
    --rehearse) rehearsal=yes ;;
    --list) printf '%s\nwith --first: %s\n' "$all_steps" "$first_steps"; exit 0 ;;
    *) sed 's/^/  /' "$here/README.txt"; exit 2 ;;
esac

# --- PyTorch's libraries -------------------------------------------------------------------------------------------------
# Called from the root folder, lest a file here named like a module be imported instead.
found=$(cd / && "$python" - <<'PY'
import importlib.metadata, importlib.util, sys
try:
    version = importlib.metadata.version("torch")
    print(version, list(importlib.util.find_spec("torch").submodule_search_locations)[0], sep="\n")
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
PY
) || lacks "$python has no PyTorch; set PYTHON to one that has PyTorch 2.11.0"
version=${found%%$'\n'*}
torch=${found#*$'\n'}
case "$version" in
    2.11.0 | 2.11.0+*) ;;
    *) lacks "the PyTorch of $python is $version; this build needs 2.11.0" ;;
esac
[ -e "$torch/lib/libtorch_cpu.so" ] || lacks "$torch/lib has no libtorch_cpu.so"
# The programs look for libtorch in the folder `torch` of this bundle before anywhere else.
ln -sfn "$torch/lib" "$here/torch" || lacks "cannot make the link $here/torch: copy the bundle to a folder that can be written"

export BOWLINE_ASSETS="$here/assets"
export BOWLINE_KERNEL_CACHE="$here/kernel-cache"
export HF_HUB_OFFLINE=1
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
bowline="$here/bin/bowline"
contract="$here/bin/contract"
fused="$here/bin/fused"
export here python version torch bowline contract fused

if ! complaint=$("$bowline" --version 2>&1); then
    case "$complaint" in
        *GLIBCXX* | *CXXABI* | *GCC_*)
            export LD_LIBRARY_PATH="$here/lib/compiler:$LD_LIBRARY_PATH"
            complaint=$("$bowline" --version 2>&1) || lacks "the program does not start: $complaint"
            ;;
        *GLIBC_*) lacks "this system's C library is too old for this build: $complaint" ;;
        *) lacks "the program does not start: $complaint" ;;
    esac
fi

# --- The device ----------------------------------------------------------------------------------------------------------
field() {
    "$bowline" doctor --json | "$python" -c "import json, sys; print(json.load(sys.stdin)['cuda']['$1'])"
}
device=none
if [ "$(field available)" = True ]; then
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
    device=${device:-cuda}
fi
# What steps run on, and how much.
set -a
on=cuda:0 dtype=bfloat16 ours=cuda hopper=hopper,hopper-unordered heads=16 more_heads=32
lengths=4096,8192,16384,32768 masked_lengths=32768,65536
big=llama-2-7b bigger=llama-2-13b peer_shape=llama-2-7b contexts="4096 16384 32768" longest=131072
lean=optimizer=bfloat16,gradients=in-backward leaner=optimizer=int8,gradients=in-backward
# Tokens per second of an H100 that are asked for, by length: a full fine-tune of 7B, of 13B, LoRA on 7B.
bars_7b="4096@11500 16384@8500 32768@6500" bars_13b="4096 32768@3400" lora=32768@7000 qlora=16384
kernels_7b="--bar 0.85" kernels_13b="--bar 0.85 --hidden 5120 --inner 13824 --vocab 32001" curve=
if [ -n "$first" ]; then
    lengths=8192,32768 masked_lengths=32768 contexts=8192 bars_7b=8192
elif [ -n "$rehearsal" ]; then
    # The same commands on the CPU and small.
    on=cpu dtype=float32 ours=tiled hopper=tiled heads=2 more_heads=2 lengths=128,256 masked_lengths=512
    big=bundled bigger=bundled peer_shape=tiny contexts="128 256" longest=512
    bars_7b="128@1 256@1" bars_13b="128 256@1" lora=256@1 qlora=128
    kernels_7b="--tokens 64 --hidden 256 --inner 512 --vocab 500 --parameters 4096 --repeats 2" kernels_13b=$kernels_7b
    curve="--cases curve --curve-length 256 --points 4 --repeats 1"
    [ "$device" != none ] || device=rehearsal
fi
set +a
slug=$(printf '%s' "$device" | tr -cs 'A-Za-z0-9' '-' | sed 's/^-//; s/-$//')
out="$here/results/$(date -u +%Y-%m-%d_%H%M%S)_$slug"
mkdir -p "$out" || lacks "cannot make $out"
export out
cp "$here/commit.txt" "$out/"
echo "device: $device" | tee "$out/summary.txt"

# --- Steps ---------------------------------------------------------------------------------------------------------------
environment() {
    date -u
    uname -a
    grep PRETTY_NAME /etc/os-release
    echo "PyTorch $version in $torch"
    nvidia-smi || echo "no nvidia-smi"
}
doctor() { "$bowline" doctor; }
kernels() { "$bowline" kernels check --json; }
# Every kernel, forward and backward, under the error budget; writes the entries for the manifest.
case_table() {
    BOWLINE_VERIFIED="$out/kernels.json" BOWLINE_DATE=$(date -u +%Y-%m-%d) "$contract" --nocapture on_cuda
}
# The same for norms, SwiGLU, cross-entropy and AdamW.
fused_cases() {
    BOWLINE_VERIFIED="$out/fused_kernels.json" BOWLINE_DATE=$(date -u +%Y-%m-%d) "$fused" --nocapture on_device
}
# Every backend over the table, the mutants, the same bits twice. The host twin needs a compiler and was run where this was built.
contract() { "$contract" --nocapture --skip on_cuda --skip twin; }
sanitized() {
    # Without libtorch's own cache of memory every access outside an allocation is seen.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 1800 "$sanitizer" --tool "$1" --error-exitcode 9 \
        "${@:2}"
}
memcheck() { sanitized memcheck "$contract" --nocapture on_cuda::every_kernel; }
racecheck() { sanitized racecheck "$contract" --nocapture on_cuda::every_kernel; }
fused_memcheck() { sanitized memcheck "$fused" --nocapture on_device::every_kernel; }
fused_racecheck() { sanitized racecheck "$fused" --nocapture on_device::every_kernel; }
bench_attention() {
    "$bowline" bench attention --device "$on" --dtype "$dtype" --backends "$ours" --heads "$heads" --lengths "$lengths" \
        --head-dims 128 --out "$out/bench_attention" --json
}
# Kernels made for one chip; nothing to measure elsewhere. In a fixed order of sums, and what that costs.
on_hopper() { nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -qx 9.0; }
bench_hopper() {
    on_hopper || [ "$on" = cpu ] || { echo "no Hopper device"; return 0; }
    "$bowline" bench attention --device "$on" --dtype "$dtype" --backends "$hopper" --heads "$more_heads" \
        --cases causal,alibi --lengths "$lengths" --head-dims 64,128 --out "$out/bench_hopper" --json
}
# Time by visible area: windows of 1024 and 4096 and 8 documents, beside causal at the same length.
bench_masks() {
    on_hopper || [ "$on" = cpu ] || { echo "no Hopper device"; return 0; }
    "$bowline" bench attention --device "$on" --dtype "$dtype" --backends "${hopper%%,*}" --heads "$more_heads" \
        --cases causal,window,window-4096,documents --lengths "$masked_lengths" --head-dims 128 --repeats 3 --out "$out/bench_masks" --json
}
# cuDNN, FlashAttention and FlexAttention with ALiBi, by PyTorch itself.
attention_peers() {
    "$python" "$here/scripts/bench_gpu_peers.py" attention --device "${on%%:*}" --heads "$more_heads" --lengths "$lengths" \
        --head-dims 64,128 --json "$out/attention_peers.json"
}
bench_heads() {
    "$bowline" bench attention --device "$on" --dtype "$dtype" --backends "$ours" --heads "$heads" --lengths "${lengths##*,}" \
        --head-dims 64,80,256 --out "$out/bench_heads" --json
}
# LLaMA-2 7B's and 13B's sizes: every kernel at 85 % of a copy's speed or more.
bench_kernels() {
    # Options, each a word.
    "$bowline" bench kernels --device "$on" $kernels_7b --out "$out/bench_kernels_7b.json" &&
        "$bowline" bench kernels --device "$on" $kernels_13b --out "$out/bench_kernels_13b.json"
}
# The bundled model finds a text as likely whatever computes its attention; bfloat16 leaves them a percent.
model() {
    local backend
    for backend in libtorch "$ours" reference; do
        "$bowline" score bundled --text "$here/assets/text/PROVENANCE.md" --device "$on" --dtype "$dtype" \
            --backend "$backend" --json "$out/score_$backend.json" || return
    done
    "$python" - "$out" "$ours" <<'PY'
import json, sys
found = {name: json.load(open(f"{sys.argv[1]}/score_{name}.json"))["perplexity"] for name in ("libtorch", sys.argv[2], "reference")}
print(found)
sys.exit(any(not abs(value / found["reference"] - 1) < 0.01 for value in found.values()))
PY
}
speed() {
    local backend
    for backend in libtorch "$ours"; do
        "$bowline" bench score bundled --device "$on" --dtype "$dtype" --backend "$backend" --json || return
        "$bowline" bench train bundled --device "$on" --dtype "$dtype" --backend "$backend" --json || return
    done
}

# Training of a known shape with random weights: one JSON row for each policy and length, its peak beside the predicted one.
# Of a length with a bar, so many tokens per second are asked for. What does not fit is told and is no failure; that nothing
# fits is, and so is what is below its bar.
trained() {
    # The shape and options, each a word.
    local shape=$1 row passed=0 below=0 policy length bar code
    shift
    for row in "$@"; do
        IFS=@ read -r policy length bar <<<"$row"
        echo "== $shape $policy $length ${bar:+at least $bar tokens/s}"
        code=0
        "$bowline" bench train $shape --random-weights --device "$on" --dtype "$dtype" --policy "$policy" --context "$length" \
            ${bar:+--bar "$bar"} --steps 2 --json || code=$?
        case "$code" in
            0) passed=$((passed + 1)) ;;
            1) below=$((below + 1)) ;;
        esac
    done
    [ "$passed" -gt 0 ] && [ "$below" -eq 0 ]
}
planner() {
    local policy length rows=
    for policy in all light attention layers attention,offload=true; do
        for length in $contexts "$longest"; do rows="$rows $policy,$lean@$length"; done
    done
    rows="$rows attention,offload=true,mlp_tokens=8192,$lean@$((2 * longest))"
    trained "$big" $rows && trained "$bigger" "attention,$leaner@${contexts##* }" "layers,$leaner@${contexts##* }" \
        "attention,offload=true,$leaner@$longest"
}
train_7b() {
    local length rows=
    for length in $bars_7b; do rows="$rows attention,$lean@$length"; done
    trained "$big" $rows
}
train_13b() {
    local length rows=
    for length in $bars_13b; do rows="$rows attention,$leaner@$length"; done
    trained "$bigger" $rows
}
# Adapters as LongLoRA's and QLoRA's recipes have them: the first for speed, the second for a card of 24 GB.
train_lora() { trained "$big --adapter lora" "attention,mlp_tokens=4096@$lora"; }
train_qlora() { trained "$big --adapter qlora" "layers,offload=true,optimizer=int8,loss_tokens=2048@$qlora"; }
# The same by transformers, in the same run.
train_peer() {
    local length
    for length in $contexts; do
        "$python" "$here/scripts/bench_gpu_peers.py" train --device "${on%%:*}" --shape "$peer_shape" --context "$length" \
            --json "$out/train_peer_$length.json" || return
    done
}
# A curve and grids on the bundled model, and whole passes over long texts at 7B's size.
evaluation() {
    "$bowline" bench eval --device "$on" --dtype "$dtype" $curve --json &&
        "$bowline" bench score "$big" --random-weights --device "$on" --dtype "$dtype" --lengths "${contexts##* },$longest" --repeats 2 --json
}

# A real model from 8K to 32K tokens, by every method, with and without training: see docs/models.md of the repository.
smollm2() {
    (cd "$SMOLLM2" && "$bowline" run smollm2-135m-32k --device cuda:0 --out "$out/smollm2-135m-32k")
}

export -f $(compgen -A function)

failed=0
run() {
    local name=$1 begun=$SECONDS state=passed
    echo "== $name"
    # Functions are known to the shell that `timeout` starts; without a limit it waits as long as it takes.
    timeout --kill-after 5 "$([ -n "$first" ] && share_of "$name" || echo 0)" bash -o pipefail -c "$name" \
        >"$out/$name.txt" 2>"$out/$name.err" || { state="FAILED ($?)"; failed=$((failed + 1)); tail -n 5 "$out/$name.err" "$out/$name.txt"; }
    echo "$name: $state, $((SECONDS - begun)) s" | tee -a "$out/summary.txt"
}
skip() {
    echo "$1: skipped, $2" | tee -a "$out/summary.txt"
}

export sanitizer
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
for name in ${STEPS:-$all_steps}; do
    case " $all_steps " in *" $name "*) ;; *) lacks "there is no step $name; the steps are $all_steps" ;; esac
    case "$name" in
        environment | doctor | kernels) run "$name" ;;
        *)
            if [ "$device" = none ]; then
                skip "$name" "there is no CUDA device"
            elif [ -n "$rehearsal" ] && case "$name" in *check | smollm2) true ;; *) false ;; esac; then
                skip "$name" "it cannot be rehearsed"
            elif [ "$name" = smollm2 ] && [ ! -d "${SMOLLM2:-}/books" ]; then
                skip "$name" "SMOLLM2 names no folder with the model and books"
            elif [ "${name%check}" != "$name" ] && [ -z "$sanitizer" ]; then
                skip "$name" "there is no compute-sanitizer"
            else
                run "$name"
            fi
            ;;
    esac
done

# The test programs start as well, whether or not there is anything to run them on.
for name in contract fused; do
    "$here/bin/$name" --list >/dev/null 2>"$out/${name}_starts.err" || { echo "$name: does not start" | tee -a "$out/summary.txt"; failed=$((failed + 1)); }
done
# Checkpoints stay where they are.
tar -C "$here/results" --exclude=checkpoints --exclude=.tokens -czf "$out.tar.gz" "$(basename "$out")"
echo "results: $out.tar.gz"
[ "$failed" -eq 0 ] || exit 1
[ "$device" != none ] || [ -n "$rehearsal" ] || lacks "there is no CUDA device: $(field explanation)"
