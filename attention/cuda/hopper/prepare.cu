// Before the backward: delta = rowsum(grad_output * output) and the log-sum-exp in powers of two as in ../prepare.cu, both padded
// to whole tiles; zeros where dq is added up, and whose turn it is to add.
//
// A warp takes one query. Grid: x = queries in eights; y = query heads; z = batch.

DEVICE const char *row_of(const void *tensor, const Strides &strides, int batch, int head, int row) {
    return (const char *)tensor + 2 * (batch * strides.batch + head * strides.head + row * strides.row);
}

KERNEL(32 * WARPS, MIN_BLOCKS) attention_prepare(GRID_CONSTANT const Launch launch) {
    const Params &p = launch.p;
    int lane = thread_index() & 31, query = block_x() * WARPS + (thread_index() >> 5), head = block_y(), batch = block_z();
    long long plane = (long long)batch * p.query_heads + head, at = plane * p.padded_query_len + query;
    bool there = query < p.query_len;
    float sum = 0.0f;
    if (there && 8 * lane < p.head_dim) {
        Chunk left = load_chunk(row_of(p.output, p.output_strides, batch, head, query) + 16 * lane);
        Chunk right = load_chunk(row_of(p.grad_output, p.grad_output_strides, batch, head, query) + 16 * lane);
        UNROLL for (int i = 0; i < 8; i++)
            sum = fma_(unpack(left.words[i / 2], i % 2), unpack(right.words[i / 2], i % 2), sum);
    }
    UNROLL for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (4 * lane < p.head_dim) store_chunk((float *)p.dq_sum + at * p.head_dim + 4 * lane, {0, 0, 0, 0});
    if (lane != 0) return;
    float lse = there ? load_float((const float *)p.lse + plane * p.query_len + query) : -infinity();
    store_float((float *)p.delta + at, sum);
    store_float((float *)p.lse_log2 + at, lse == -infinity() ? infinity() : lse * LOG2_E);
    if (launch.turns && query % TILE_M == 0) {
        Mask mask = Mask::of(p, batch);
        Turns turns = Turns::of<TILE_M, TILE_N>(mask, query);
        u32 *turn = (u32 *)launch.turns + 2 * turn_of(p, TILE_M, head, batch, query / TILE_M);
        store_word(turn, turns.next);
        store_word(turn + 1, turns.first);
    }
}
