// Attention forward in float32: a block holds TILE_M queries of one head and walks over as many keys at a time.
//
// Grid: x = tiles of queries, the last first; y = query heads; z = batch.

KERNEL(THREADS, MIN_BLOCKS) attention_forward(const Params p) {
    int first = (grid_x() - 1 - block_x()) * TILE_M, head = block_y(), batch = block_z();
    int key_head = head / (p.query_heads / p.key_heads), end = min_(first + TILE_M, p.query_len);
    Mask mask = Mask::of(p, batch);
    Scores how = Scores::of(p, head);
    KeyTiles<TILE_M> tiles = KeyTiles<TILE_M>::of(mask, first, end);
    u32 q_tile = shared_address(0), k_tile = q_tile + SINGLE_BYTES, v_tile = k_tile + SINGLE_BYTES;
    u32 shared_weights = v_tile + SINGLE_BYTES;
    copy_single(q_tile, single_plane(p.q, p.q_strides, batch, head), p.q_strides.row, first, p.query_len, p.head_dim);
    SumTile output;
    clear_single(output);
    float largest[EACH], sum[EACH];
    int first_key[EACH];
    UNROLL for (int i = 0; i < EACH; i++) {
        largest[i] = -infinity();
        sum[i] = 0.0f;
        first_key[i] = mask.first_key(first + own_row() + 16 * i);
    }
    for (int n = 0; n < tiles.count; n++) {
        int key = tiles.key(n);
        // Nobody reads the tile before any more.
        barrier();
        copy_single(k_tile, single_plane(p.k, p.k_strides, batch, key_head), p.k_strides.row, key, p.key_len, p.head_dim);
        copy_single(v_tile, single_plane(p.v, p.v_strides, batch, key_head), p.v_strides.row, key, p.key_len, p.head_dim);
        copy_commit();
        copy_wait<0>();
        barrier();
        ScoreTile scores;
        single_products(scores, q_tile, k_tile);
        UNROLL for (int i = 0; i < EACH; i++) {
            int query = first + own_row() + 16 * i, last_key = mask.last_key(query);
            float most = largest[i];
            UNROLL for (int j = 0; j < EACH; j++) {
                int at = key + own_column() + 16 * j;
                float bend, score = how.score(scores[i][j], (float)(query + mask.offset - at), bend) * how.factor;
                scores[i][j] = mask.sees(first_key[i], last_key, at) ? score : -infinity();
                most = max_(most, scores[i][j]);
            }
            UNROLL for (int lane = 1; lane < 16; lane *= 2) most = max_(most, shuffle_xor(most, lane));
            // A row that has seen nothing yet has weights of zero under any finite maximum.
            float finite = most == -infinity() ? 0.0f : most, shrink = exp2_fast(largest[i] - finite);
            largest[i] = most;
            sum[i] *= shrink;
            UNROLL for (int j = 0; j < EACH; j++) {
                scores[i][j] = exp2_fast(scores[i][j] - finite);
                sum[i] += scores[i][j];
            }
            UNROLL for (int c = 0; c < PIECES; c++)
                UNROLL for (int k = 0; k < 4; k++) output[i][c][k] *= shrink;
        }
        share(shared_weights, scores);
        barrier();
        add_single_products(output, shared_weights, v_tile);
    }
    UNROLL for (int i = 0; i < EACH; i++) {
        float total = sum[i];
        UNROLL for (int lane = 1; lane < 16; lane *= 2) total += shuffle_xor(total, lane);
        int query = first + own_row() + 16 * i;
        if (query >= p.query_len) continue;
        char *row = (char *)single_plane(p.output, p.output_strides, batch, head) + 4 * query * p.output_strides.row;
        store_single(row, output[i], total == 0.0f ? 0.0f : 1.0f / total, p.head_dim);
        long long at = ((long long)batch * p.query_heads + head) * p.query_len + query;
        float log_sum = total == 0.0f ? -infinity() : LN_2 * (largest[i] + log2_fast(total));
        if (own_column() == 0) store_float((float *)p.lse + at, log_sum);
    }
}
