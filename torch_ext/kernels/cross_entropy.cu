// Cross-entropy of rows of logits in place: loss = log(sum(exp(x))) - x[target], gradient softmax(x) - onehot(target), times
// the row's weight and a factor. A block has a row; its first CHUNKS pieces a thread are held in registers, those of a longer
// vocabulary are read a second time, from the cache as a rule.
//
// A row may begin anywhere: pieces are counted from the multiple of 16 bytes at or before its first element. A target that is
// no column, and is not the one to be ignored, gives NaN. Grid: x = rows.

// The largest of some numbers, and the sum of exp(number - largest).
struct Total {
    float most, sum;

    // Where nothing is larger than -infinity, differences from it would be NaN.
    MEMBER static float base(float most) { return most == -infinity() ? 0.0f : most; }
    MEMBER static float exponential(float x) { return exp2_fast(x * LOG2_E); }

    MEMBER void add(const Chunk &chunk) {
        Numbers numbers;
        unpack_piece(numbers, chunk);
        float largest = most;
        UNROLL for (int i = 0; i < EACH; i++) largest = max_(largest, numbers[i]);
        float from = base(largest);
        sum *= exponential(most - from);
        UNROLL for (int i = 0; i < EACH; i++) sum += exponential(numbers[i] - from);
        most = largest;
    }

    MEMBER void merge(float other_most, float other_sum) {
        float largest = max_(most, other_most), from = base(largest);
        sum = sum * exponential(most - from) + other_sum * exponential(other_most - from);
        most = largest;
    }
};

struct Gradient {
    float from, factor, weight;
    int target;

    MEMBER Chunk of(const Chunk &chunk, int at) const {
        Numbers numbers;
        unpack_piece(numbers, chunk);
        UNROLL for (int i = 0; i < EACH; i++) {
            numbers[i] = Total::exponential(numbers[i] - from) * factor;
            if (at + i == target) numbers[i] -= weight;
        }
        return pack_piece(numbers);
    }
};

KERNEL(THREADS, MIN_BLOCKS) cross_entropy(const Params p) {
    long long row = block_x(), target = load_long(p.targets + row);
    char *logits = (char *)p.logits + SIZE * row * p.stride;
    int lead = (int)(row * p.stride % EACH), thread = thread_index(), columns = p.columns;
    float weight = p.weights ? load_float(p.weights + row) : 1.0f;
    if (target == p.ignored || weight == 0.0f) {
        if (thread == 0) store_float(p.losses + row, 0.0f);
        for (int at = EACH * thread - lead; p.gradient && at < columns; at += EACH * THREADS)
            store_piece(logits, at, columns, true, chunk_of(0));
        return;
    }
    bool known = target >= 0 && target < columns;
    // Read before the row is overwritten, which is after the barrier.
    float at_target = known ? load_number(logits + SIZE * target) : infinity() - infinity();
    Chunk held[CHUNKS];
    UNROLL for (int c = 0; c < CHUNKS; c++)
        held[c] = load_piece(logits, EACH * (c * THREADS + thread) - lead, columns, true, MINUS_INFINITY);
    Total total = {-infinity(), 0.0f};
    UNROLL for (int c = 0; c < CHUNKS; c++) total.add(held[c]);
    int rest = EACH * (CHUNKS * THREADS + thread) - lead;
    for (int at = rest; at < columns; at += EACH * THREADS)
        total.add(load_piece(logits, at, columns, true, MINUS_INFINITY));
    UNROLL for (int mask = 16; mask > 0; mask /= 2)
        total.merge(shuffle_xor(total.most, mask), shuffle_xor(total.sum, mask));
    u32 place = shared_address(8 * (thread / 32));
    if (thread % 32 == 0) {
        store_shared_float(place, total.most);
        store_shared_float(place + 4, total.sum);
    }
    barrier();
    total = {-infinity(), 0.0f};
    UNROLL_BY(4) for (int warp = 0; warp < WARPS; warp++)
        total.merge(load_shared_float(shared_address(8 * warp)), load_shared_float(shared_address(8 * warp + 4)));
    if (thread == 0) store_float(p.losses + row, (total.most - at_target) + LN_2 * log2_fast(total.sum));
    if (!p.gradient) return;
    weight *= p.scale;
    float factor = known ? divide(weight, total.sum) : at_target;
    Gradient gradient = {Total::base(total.most), factor, weight, (int)target};
    UNROLL for (int c = 0; c < CHUNKS; c++) {
        int at = EACH * (c * THREADS + thread) - lead;
        if (at < columns) store_piece(logits, at, columns, true, gradient.of(held[c], at));
    }
    for (int at = rest; at < columns; at += EACH * THREADS)
        store_piece(logits, at, columns, true, gradient.of(load_piece(logits, at, columns, true, MINUS_INFINITY), at));
}
