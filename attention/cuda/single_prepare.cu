// Before the backward, as prepare.cu, for float32 tensors. A warp takes one query.
//
// Grid: x = queries in eights; y = query heads; z = batch.

KERNEL(THREADS, MIN_BLOCKS) attention_prepare(const Params p) {
    int lane = thread_index() & 31, query = block_x() * WARPS + (thread_index() >> 5), head = block_y(), batch = block_z();
    long long plane_index = (long long)batch * p.query_heads + head;
    bool there = query < p.query_len;
    float sum = 0.0f;
    for (int column = 4 * lane; there && column < p.head_dim; column += 128) {
        const char *o = single_plane(p.output, p.output_strides, batch, head);
        const char *g = single_plane(p.grad_output, p.grad_output_strides, batch, head);
        Chunk left = load_chunk(o + 4 * (query * p.output_strides.row + column));
        Chunk right = load_chunk(g + 4 * (query * p.grad_output_strides.row + column));
        UNROLL for (int i = 0; i < 4; i++) sum = fma_(from_bits(left.words[i]), from_bits(right.words[i]), sum);
    }
    UNROLL for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane != 0 || query >= p.padded_query_len) return;
    float lse = there ? load_float((const float *)p.lse + plane_index * p.query_len + query) : -infinity();
    long long at = plane_index * p.padded_query_len + query;
    store_float((float *)p.delta + at, sum);
    store_float((float *)p.lse_log2 + at, lse == -infinity() ? infinity() : lse * LOG2_E);
}
