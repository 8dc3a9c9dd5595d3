// Gradients by keys and values (Dao 2023, algorithm 2): a block holds TILE_N keys of one head and walks over tiles of TILE_M
// queries of every query head that shares them, copied two tiles deep. Scores are computed transposed, keys by queries, so
// that weights and their gradients are the left factors of both sums without leaving registers. The order of the sums is
// fixed, so the result is the same bits every time.
//
// Grid: x = tiles of keys, the first of which the most queries see; y = key heads; z = batch, times SPLITS.

#define THREADS (32 * WARPS)
#define BLOCKS (TILE_N / (16 * WARPS))
#define QUERY_BLOCKS (TILE_M / 8)
// More than 128 columns of both sums do not fit into registers: blocks then share them.
#define SPLITS (HEAD_DIM > 128 ? 2 : 1)
#define COLUMNS (HEAD_DIM / SPLITS)
#define STAGE_BYTES (2 * TILE_BYTES(TILE_M) + 12 * TILE_M)

typedef float ScoreTile[BLOCKS][QUERY_BLOCKS][4];
typedef float SumTile[BLOCKS][COLUMNS / 8][4];

// A tile of queries of one head.
struct Turn {
    int head, query;
};

// Scores become weights, and the products of gradients with values become gradients of scores.
DEVICE void finish(ScoreTile &weights, ScoreTile &gradients, const Scores &how, const Mask &mask, u32 rows, int query,
                   int key, bool hides) {
    int first_column = (thread_index() & 3) * 2;
    // Sums of whole numbers, exact in float32 up to 2^24.
    float distance = (float)(query + first_column + mask.offset - key);
    rows += 4 * first_column;
    UNROLL for (int n = 0; n < QUERY_BLOCKS; n++)
        UNROLL for (int i = 0; i < 2; i++) {
            int column = 8 * n + i;
            float lse = load_shared_float(rows + 4 * column), delta = load_shared_float(rows + 4 * (TILE_M + column));
            UNROLL for (int block = 0; block < BLOCKS; block++)
                UNROLL for (int half = 0; half < 2; half++) {
                    float bend = 1.0f;
                    float apart = distance + (column - 16 * block - 8 * half);
                    float score = how.score(weights[block][n][2 * half + i], apart, bend);
                    float weight = exp2_fast(fma_(score, how.factor, -lse));
                    weights[block][n][2 * half + i] = weight;
                    float &gradient = gradients[block][n][2 * half + i];
                    gradient = weight * (gradient - delta) * bend;
                }
        }
    if (!hides) return;
    UNROLL for (int n = 0; n < QUERY_BLOCKS; n++)
        UNROLL for (int i = 0; i < 2; i++) {
            int first = load_shared_int(rows + 4 * (2 * TILE_M + 8 * n + i));
            int last = mask.last_key(query + first_column + 8 * n + i);
            UNROLL for (int block = 0; block < BLOCKS; block++)
                UNROLL for (int half = 0; half < 2; half++)
                    if (!mask.sees(first, last, key + 16 * block + 8 * half)) {
                        weights[block][n][2 * half + i] = 0.0f;
                        gradients[block][n][2 * half + i] = 0.0f;
                    }
        }
}

KERNEL(THREADS, MIN_BLOCKS) attention_keys(const Params p) {
    int first = block_x() * TILE_N, key_head = block_y(), batch = block_z() / SPLITS, split = block_z() % SPLITS;
    int end = min_(first + TILE_N, p.key_len), group = p.query_heads / p.key_heads;
    int lane = thread_index() & 31, warp = thread_index() >> 5;
    Mask mask = Mask::of(p, batch);
    // A key beyond the last is a row of zeros whose weights go nowhere, but they must stay finite: the mask hides it.
    int first_tile = mask.first_query(first) / TILE_M;
    int tiles = max_(0, (mask.last_query(first, end) + TILE_M - 1) / TILE_M - first_tile);
    u32 k_tile = shared_address(0), v_tile = k_tile + TILE_BYTES(TILE_N), stages = v_tile + TILE_BYTES(TILE_N);

    int first_query = first_tile * TILE_M, end_query = first_query + tiles * TILE_M, end_head = (key_head + 1) * group;
    auto after = [&](Turn turn) {
        turn.query += TILE_M;
        return turn.query < end_query ? turn : Turn{turn.head + 1, first_query};
    };
    auto copy_stage = [&](int n, Turn turn) {
        if (turn.head < end_head) {
            int head = turn.head, query = turn.query;
            u32 stage = stages + (n & 1) * STAGE_BYTES;
            const char *q = plane(p.q, p.q_strides, batch, head);
            const char *g = plane(p.grad_output, p.grad_output_strides, batch, head);
            copy_tile<TILE_M, THREADS>(stage, q, p.q_strides.row, query, p.query_len, p.head_dim);
            copy_tile<TILE_M, THREADS>(stage + TILE_BYTES(TILE_M), g, p.grad_output_strides.row, query, p.query_len,
                                       p.head_dim);
            long long at = ((long long)batch * p.query_heads + head) * p.padded_query_len + query;
            copy_rows<TILE_M>(stage + 2 * TILE_BYTES(TILE_M), (const float *)p.lse_log2 + at, (const float *)p.delta + at);
            mask.store_first_keys<TILE_M, THREADS>(stage + 2 * TILE_BYTES(TILE_M) + 8 * TILE_M, query);
        }
        copy_commit();
    };
    const char *k = plane(p.k, p.k_strides, batch, key_head), *v = plane(p.v, p.v_strides, batch, key_head);
    copy_tile<TILE_N, THREADS>(k_tile, k, p.k_strides.row, first, p.key_len, p.head_dim);
    copy_tile<TILE_N, THREADS>(v_tile, v, p.v_strides.row, first, p.key_len, p.head_dim);
    Turn turn = {tiles ? key_head * group : end_head, first_query};
    copy_stage(0, turn);

    SumTile dk, dv;
    clear(dk);
    clear(dv);
    Reader k_reader = Reader::at(k_tile + TILE_BYTES(warp * 16 * BLOCKS));
    Reader v_reader = Reader::at(v_tile + TILE_BYTES(warp * 16 * BLOCKS));
    int key = first + warp * 16 * BLOCKS + lane / 4;
    for (int n = 0; turn.head < end_head; n++) {
        Turn next = after(turn);
        // The tile has landed, and nobody reads the other stage any more.
        copy_wait<0>();
        barrier();
        copy_stage(n + 1, next);
        Scores how = Scores::of(p, turn.head);
        u32 stage = stages + (n & 1) * STAGE_BYTES;
        Reader q_reader = Reader::at(stage), g_reader = Reader::at(stage + TILE_BYTES(TILE_M));
        ScoreTile weights, gradients;
        products(weights, k_reader, q_reader);
        products(gradients, v_reader, g_reader);
        u32 rows = stage + 2 * TILE_BYTES(TILE_M);
        int last_row = min_(TILE_M, p.query_len - turn.query) - 1;
        int all_first = load_shared_int(rows + 4 * (2 * TILE_M + last_row)), all_last = mask.last_key(turn.query);
        bool hides = !mask.all_visible(all_first, all_last, first, first + TILE_N);
        finish(weights, gradients, how, mask, rows, turn.query, key, hides);
        add_products(dv, weights, g_reader, split * (COLUMNS / 16));
        add_products(dk, gradients, q_reader, split * (COLUMNS / 16));
        turn = next;
    }
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            int row = key + 16 * block + 8 * half;
            if (row >= p.key_len) continue;
            char *dk_row = (char *)plane(p.dk, p.dk_strides, batch, key_head) + 2 * row * p.dk_strides.row;
            char *dv_row = (char *)plane(p.dv, p.dv_strides, batch, key_head) + 2 * row * p.dv_strides.row;
            store_row(dk_row, dk[block], half, p.scale, split * COLUMNS, p.head_dim);
            store_row(dv_row, dv[block], half, 1.0f, split * COLUMNS, p.head_dim);
        }
}
