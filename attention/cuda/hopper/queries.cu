// After the tiles of keys have added up dq in float32: rounds it, times the scale.
//
// A thread takes 8 columns of a query. Grid: x = threads; y = query heads; z = batch.

KERNEL(32 * WARPS, MIN_BLOCKS) attention_queries(GRID_CONSTANT const Launch launch) {
    const Params &p = launch.p;
    int pieces = p.head_dim / 8, number = block_x() * 32 * WARPS + thread_index(), head = block_y(), batch = block_z();
    int query = number / pieces, column = number % pieces * 8;
    if (query >= p.query_len) return;
    long long row = ((long long)batch * p.query_heads + head) * p.padded_query_len + query;
    const char *from = (const char *)p.dq_sum + 4 * (row * p.head_dim + column);
    Chunk sums[2] = {load_chunk(from), load_chunk(from + 16)}, rounded;
    UNROLL for (int i = 0; i < 4; i++) {
        const u32 *two = sums[i / 2].words + i % 2 * 2;
        rounded.words[i] = pack(from_bits(two[0]) * p.scale, from_bits(two[1]) * p.scale);
    }
    char *to = (char *)p.dq + 2 * (batch * p.dq_strides.batch + head * p.dq_strides.head + query * p.dq_strides.row + column);
    store_chunk(to, rounded);
}
