// Before the backward (Dao 2023, algorithm 2, line 4): delta = rowsum(grad_output * output) and the log-sum-exp in powers of
// two, both padded to whole tiles. Where no weight may come from, blind rows and padding, the log-sum-exp is +infinity.
//
// A warp takes one query. Grid: x = queries in eights; y = query heads; z = batch.

KERNEL(32 * WARPS, MIN_BLOCKS) attention_prepare(const Params p) {
    int lane = thread_index() & 31, query = block_x() * WARPS + (thread_index() >> 5), head = block_y(), batch = block_z();
    long long plane_index = (long long)batch * p.query_heads + head;
    bool there = query < p.query_len;
    float sum = 0.0f;
    for (int column = 8 * lane; there && column < p.head_dim; column += 256) {
        const char *o = plane(p.output, p.output_strides, batch, head) + 2 * (query * p.output_strides.row + column);
        const char *g =
            plane(p.grad_output, p.grad_output_strides, batch, head) + 2 * (query * p.grad_output_strides.row + column);
        Chunk left = load_chunk(o), right = load_chunk(g);
        UNROLL for (int i = 0; i < 8; i++)
            sum = fma_(unpack(left.words[i / 2], i % 2), unpack(right.words[i / 2], i % 2), sum);
    }
    UNROLL for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane != 0 || query >= p.padded_query_len) return;
    float lse = there ? load_float((const float *)p.lse + plane_index * p.query_len + query) : -infinity();
    long long at = plane_index * p.padded_query_len + query;
    store_float((float *)p.delta + at, sum);
    store_float((float *)p.lse_log2 + at, lse == -infinity() ? infinity() : lse * LOG2_E);
}
