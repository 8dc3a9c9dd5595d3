// Gradients by keys and values in float32: a block holds TILE_M keys of one head and walks over as many queries at a time,
// of every query head that shares them. Scores are keys by queries.
//
// Grid: x = tiles of keys; y = key heads; z = batch.

KERNEL(THREADS, MIN_BLOCKS) attention_keys(const Params p) {
    int first = block_x() * TILE_M, key_head = block_y(), batch = block_z(), group = p.query_heads / p.key_heads;
    Mask mask = Mask::of(p, batch);
    int first_query = mask.first_query(first) / TILE_M * TILE_M;
    int end_query = mask.last_query(first, min_(first + TILE_M, p.key_len));
    u32 k_tile = shared_address(0), v_tile = k_tile + SINGLE_BYTES, q_tile = v_tile + SINGLE_BYTES;
    u32 g_tile = q_tile + SINGLE_BYTES, shared_weights = g_tile + SINGLE_BYTES;
    u32 shared_gradients = shared_weights + SCORE_BYTES;
    copy_single(k_tile, single_plane(p.k, p.k_strides, batch, key_head), p.k_strides.row, first, p.key_len, p.head_dim);
    copy_single(v_tile, single_plane(p.v, p.v_strides, batch, key_head), p.v_strides.row, first, p.key_len, p.head_dim);
    SumTile dk, dv;
    clear_single(dk);
    clear_single(dv);
    for (int head = key_head * group; head < (key_head + 1) * group; head++) {
        Scores how = Scores::of(p, head);
        const char *q = single_plane(p.q, p.q_strides, batch, head);
        const char *g = single_plane(p.grad_output, p.grad_output_strides, batch, head);
        long long rows = ((long long)batch * p.query_heads + head) * p.padded_query_len;
        for (int query = first_query; query < end_query; query += TILE_M) {
            // Nobody reads the tile before any more.
            barrier();
            copy_single(q_tile, q, p.q_strides.row, query, p.query_len, p.head_dim);
            copy_single(g_tile, g, p.grad_output_strides.row, query, p.query_len, p.head_dim);
            copy_commit();
            copy_wait<0>();
            barrier();
            ScoreTile weights, gradients;
            single_products(weights, k_tile, q_tile);
            single_products(gradients, v_tile, g_tile);
            UNROLL for (int j = 0; j < EACH; j++) {
                int at = query + own_column() + 16 * j;
                float lse = load_float((const float *)p.lse_log2 + rows + at);
                float delta = load_float((const float *)p.delta + rows + at);
                int first_key = mask.first_key(at), last_key = mask.last_key(at);
                UNROLL for (int i = 0; i < EACH; i++) {
                    int key = first + own_row() + 16 * i;
                    finish_single(weights[i][j], gradients[i][j], how, (float)(at + mask.offset - key), lse, delta,
                                  mask.sees(first_key, last_key, key));
                }
            }
            share(shared_weights, weights);
            share(shared_gradients, gradients);
            barrier();
            add_single_products(dv, shared_weights, g_tile);
            add_single_products(dk, shared_gradients, q_tile);
        }
    }
    UNROLL for (int i = 0; i < EACH; i++) {
        int key = first + own_row() + 16 * i;
        if (key >= p.key_len) continue;
        char *dk_row = (char *)single_plane(p.dk, p.dk_strides, batch, key_head) + 4 * key * p.dk_strides.row;
        char *dv_row = (char *)single_plane(p.dv, p.dv_strides, batch, key_head) + 4 * key * p.dv_strides.row;
        store_single(dk_row, dk[i], p.scale, p.head_dim);
        store_single(dv_row, dv[i], 1.0f, p.head_dim);
    }
}
