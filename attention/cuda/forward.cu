// Attention forward (Dao 2023, algorithm 1): a block holds TILE_M queries of one head and walks over tiles of TILE_N keys,
// copied two tiles deep. A warp holds BLOCKS blocks of 16 queries; scores, weights and the output stay in its registers.
//
// Grid: x = tiles of queries, the last first since under a causal mask it has the most keys; y = query heads; z = batch.

#define THREADS (32 * WARPS)
#define BLOCKS (TILE_M / (16 * WARPS))
#define KEY_BLOCKS (TILE_N / 8)
#define STAGE_BYTES (2 * TILE_BYTES(TILE_N))
// How far, in powers of two, weights may outgrow the maximum that they are scaled by before it is raised.
#define SLACK 8.0f

typedef float ScoreTile[BLOCKS][KEY_BLOCKS][4];
typedef float OutputTile[BLOCKS][HEAD_DIM / 8][4];
typedef float RowPair[BLOCKS][2];

// Cap and ALiBi, then -infinity for what the mask hides; `query` and `key` are those of the lane's first score, and the
// first key of that query lies at `first_keys`.
DEVICE void finish_scores(ScoreTile &scores, const Scores &how, const Mask &mask, u32 first_keys, int query, int key,
                          bool hides) {
    if (SCORES != PLAIN) {
        UNROLL for (int block = 0; block < BLOCKS; block++)
            UNROLL for (int i = 0; i < 4; i++) {
                float distance = (float)(query + 16 * block + 8 * (i / 2) + mask.offset - key - i % 2);
                float bend;
                UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                    scores[block][n][i] = how.score(scores[block][n][i], distance - 8 * n, bend);
            }
    }
    if (hides) {
        UNROLL for (int block = 0; block < BLOCKS; block++)
            UNROLL for (int half = 0; half < 2; half++) {
                int row = query + 16 * block + 8 * half;
                int first = load_shared_int(first_keys + 4 * (16 * block + 8 * half)), last = mask.last_key(row);
                UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                    UNROLL for (int i = 0; i < 2; i++) {
                        if (!mask.sees(first, last, key + 8 * n + i)) scores[block][n][2 * half + i] = -infinity();
                    }
            }
    }
}

// Raises the maxima where scores outgrow them, and scales what was summed under the old ones.
DEVICE void raise_maxima(const ScoreTile &scores, RowPair &largest, RowPair &sum, OutputTile &output, float factor) {
    RowPair found;
    bool raise = false;
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            float most = -infinity();
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                UNROLL for (int i = 0; i < 2; i++) most = max_(most, scores[block][n][2 * half + i]);
            most = max_(most, shuffle_xor(most, 1));
            most = max_(most, shuffle_xor(most, 2));
            found[block][half] = max_(most, largest[block][half]);
            raise = raise || (most - largest[block][half]) * factor > SLACK;
        }
    if (!any_lane(raise)) return;
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            float now = found[block][half];
            float shrink = now == -infinity() ? 1.0f : exp2_fast((largest[block][half] - now) * factor);
            largest[block][half] = now;
            sum[block][half] *= shrink;
            UNROLL for (int n = 0; n < HEAD_DIM / 8; n++)
                UNROLL for (int i = 0; i < 2; i++) output[block][n][2 * half + i] *= shrink;
        }
}

// Scores become weights, in float32, and are added up.
DEVICE void exponentials(ScoreTile &scores, const RowPair &largest, RowPair &sum, float factor) {
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            // A row that has seen nothing yet has only scores of -infinity, whose weight is zero under any finite maximum.
            float most = largest[block][half];
            float below = most == -infinity() ? 0.0f : -most * factor;
            UNROLL for (int n = 0; n < KEY_BLOCKS; n++)
                UNROLL for (int i = 0; i < 2; i++) {
                    float weight = exp2_fast(fma_(scores[block][n][2 * half + i], factor, below));
                    scores[block][n][2 * half + i] = weight;
                    sum[block][half] += weight;
                }
        }
}

KERNEL(THREADS, MIN_BLOCKS) attention_forward(const Params p) {
    int first = (grid_x() - 1 - block_x()) * TILE_M, head = block_y(), batch = block_z();
    int key_head = head / (p.query_heads / p.key_heads);
    int end = min_(first + TILE_M, p.query_len);
    int lane = thread_index() & 31, warp = thread_index() >> 5;
    Mask mask = Mask::of(p, batch);
    Scores how = Scores::of(p, head);
    KeyTiles<TILE_N> tiles = KeyTiles<TILE_N>::of(mask, first, end);
    u32 q_tile = shared_address(0), stages = shared_address(TILE_BYTES(TILE_M));
    u32 first_keys = stages + 2 * STAGE_BYTES;

    auto copy_stage = [&](int n) {
        u32 stage = stages + (n & 1) * STAGE_BYTES;
        if (n < tiles.count) {
            const char *k = plane(p.k, p.k_strides, batch, key_head), *v = plane(p.v, p.v_strides, batch, key_head);
            copy_tile<TILE_N, THREADS>(stage, k, p.k_strides.row, tiles.key(n), p.key_len, p.head_dim);
            copy_tile<TILE_N, THREADS>(stage + TILE_BYTES(TILE_N), v, p.v_strides.row, tiles.key(n), p.key_len, p.head_dim);
        }
        copy_commit();
    };
    const char *q = plane(p.q, p.q_strides, batch, head);
    copy_tile<TILE_M, THREADS>(q_tile, q, p.q_strides.row, first, p.query_len, p.head_dim);
    copy_stage(0);
    mask.store_first_keys<TILE_M, THREADS>(first_keys, first);
    int all_first = mask.first_key(end - 1), all_last = mask.last_key(first);

    OutputTile output;
    RowPair largest, sum;
    clear(output);
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            largest[block][half] = -infinity();
            sum[block][half] = 0.0f;
        }
    Reader q_reader = Reader::at(q_tile + TILE_BYTES(warp * 16 * BLOCKS));
    int query = first + warp * 16 * BLOCKS + lane / 4;
    for (int n = 0; n < tiles.count; n++) {
        // The tile has landed, and nobody reads the other stage any more.
        copy_wait<0>();
        barrier();
        copy_stage(n + 1);
        u32 stage = stages + (n & 1) * STAGE_BYTES;
        int key = tiles.key(n);
        ScoreTile scores;
        products(scores, q_reader, Reader::at(stage));
        bool hides = !mask.all_visible(all_first, all_last, key, key + TILE_N);
        finish_scores(scores, how, mask, first_keys + 4 * (query - first), query, key + lane % 4 * 2, hides);
        raise_maxima(scores, largest, sum, output, how.factor);
        exponentials(scores, largest, sum, how.factor);
        add_products(output, scores, Reader::at(stage + TILE_BYTES(TILE_N)));
    }
    char *output_plane = (char *)plane(p.output, p.output_strides, batch, head);
    long long output_pitch = 2 * p.output_strides.row;
    UNROLL for (int block = 0; block < BLOCKS; block++)
        UNROLL for (int half = 0; half < 2; half++) {
            float total = sum[block][half];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            int row = query + 16 * block + 8 * half;
            if (row >= p.query_len) continue;
            float inverse = total == 0.0f ? 0.0f : 1.0f / total;
            store_row(output_plane + row * output_pitch, output[block], half, inverse, 0, p.head_dim);
            float log_sum = total == 0.0f ? -infinity() : LN_2 * (largest[block][half] * how.factor + log2_fast(total));
            long long at = ((long long)batch * p.query_heads + head) * p.query_len + row;
            if (lane % 4 == 0) store_float((float *)p.lse + at, log_sum);
        }
}
