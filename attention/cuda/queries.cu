// Gradients by queries: a block holds TILE_M queries of one head with their output gradients and walks over tiles of TILE_N
// keys and values, copied two tiles deep, as the forward does. Computing the scores a second time costs two products more
// than adding to the gradients from the tiles of keys would, and gives the same bits every time.
//
// Grid: x = tiles of queries, the last first; y = query heads; z = batch.

#define THREADS (32 * WARPS)
#define BLOCKS (TILE_M / (16 * WARPS))
#define KEY_BLOCKS (TILE_N / 8)
#define STAGE_BYTES (2 * TILE_BYTES(TILE_N))

typedef float ScoreTile[BLOCKS][KEY_BLOCKS][4];

// Products of gradients with values become gradients of scores; `query` and `key` are those of the lane's first score.
DEVICE void finish(const ScoreTile &scores, ScoreTile &gradients, const Scores &how, const Mask &mask,
                   u32 rows, int query, int key, bool hides) {
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            int row = query + 16 * block + 8 * half;
            u32 numbers = rows + 4 * (16 * block + 8 * half);
            float lse = load_shared_float(numbers), delta = load_shared_float(numbers + 4 * TILE_M);
            int first = load_shared_int(numbers + 8 * TILE_M), last = mask.last_key(row);
            float distance = (float)(row + mask.offset - key);
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                UNROLL for (int i = 0; i < 2; i++) {
                    float bend = 1.0f;
                    float score = how.score(scores[block][n][2 * half + i], distance - (8 * n + i), bend);
                    float weight = exp2_fast(fma_(score, how.factor, -lse));
                    float &gradient = gradients[block][n][2 * half + i];
                    gradient = weight * (gradient - delta) * bend;
                }
            if (!hides) continue;
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                UNROLL for (int i = 0; i < 2; i++)
                    if (!mask.sees(first, last, key + 8 * n + i)) gradients[block][n][2 * half + i] = 0.0f;
        }
}

KERNEL(THREADS, MIN_BLOCKS) attention_queries(const Params p) {
    int first = (grid_x() - 1 - block_x()) * TILE_M, head = block_y(), batch = block_z();
    int key_head = head / (p.query_heads / p.key_heads);
    int end = min_(first + TILE_M, p.query_len);
    int lane = thread_index() & 31, warp = thread_index() >> 5;
    Mask mask = Mask::of(p, batch);
    Scores how = Scores::of(p, head);
    KeyTiles<TILE_N> tiles = KeyTiles<TILE_N>::of(mask, first, end);
    const char *k = plane(p.k, p.k_strides, batch, key_head), *v = plane(p.v, p.v_strides, batch, key_head);
    u32 q_tile = shared_address(0), g_tile = q_tile + TILE_BYTES(TILE_M), stages = g_tile + TILE_BYTES(TILE_M);
    u32 rows = stages + 2 * STAGE_BYTES;

    auto copy_stage = [&](int n) {
        u32 stage = stages + (n & 1) * STAGE_BYTES;
        if (n < tiles.count) {
            copy_tile<TILE_N, THREADS>(stage, k, p.k_strides.row, tiles.key(n), p.key_len, p.head_dim);
            copy_tile<TILE_N, THREADS>(stage + TILE_BYTES(TILE_N), v, p.v_strides.row, tiles.key(n), p.key_len, p.head_dim);
        }
        copy_commit();
    };
    const char *q = plane(p.q, p.q_strides, batch, head);
    const char *g = plane(p.grad_output, p.grad_output_strides, batch, head);
    copy_tile<TILE_M, THREADS>(q_tile, q, p.q_strides.row, first, p.query_len, p.head_dim);
    copy_tile<TILE_M, THREADS>(g_tile, g, p.grad_output_strides.row, first, p.query_len, p.head_dim);
    long long at = ((long long)batch * p.query_heads + head) * p.padded_query_len + first;
    copy_rows<TILE_M>(rows, (const float *)p.lse_log2 + at, (const float *)p.delta + at);
    copy_stage(0);
    mask.store_first_keys<TILE_M, THREADS>(rows + 8 * TILE_M, first);
    int all_first = mask.first_key(end - 1), all_last = mask.last_key(first);

    int query = first + warp * 16 * BLOCKS + lane / 4;
    float dq[BLOCKS][HEAD_DIM / 8][4];
    clear(dq);
    Reader q_reader = Reader::at(q_tile + TILE_BYTES(warp * 16 * BLOCKS));
    Reader g_reader = Reader::at(g_tile + TILE_BYTES(warp * 16 * BLOCKS));
    for (int n = 0; n < tiles.count; n++) {
        // The tile has landed, and nobody reads the other stage any more.
        copy_wait<0>();
        barrier();
        copy_stage(n + 1);
        u32 stage = stages + (n & 1) * STAGE_BYTES;
        int key = tiles.key(n);
        Reader k_reader = Reader::at(stage);
        ScoreTile scores, gradients;
        products(scores, q_reader, k_reader);
        products(gradients, g_reader, Reader::at(stage + TILE_BYTES(TILE_N)));
        bool hides = !mask.all_visible(all_first, all_last, key, key + TILE_N);
        finish(scores, gradients, how, mask, rows + 4 * (query - first), query, key + lane % 4 * 2, hides);
        add_products(dq, gradients, k_reader);
    }
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            int row = query + 16 * block + 8 * half;
            if (row >= p.query_len) continue;
            char *dq_row = (char *)plane(p.dq, p.dq_strides, batch, head) + 2 * row * p.dq_strides.row;
            store_row(dq_row, dq[block], half, p.scale, 0, p.head_dim);
        }
}
