// Gradients by queries in float32: a block holds TILE_M queries of one head and walks over as many keys at a time.
//
// Grid: x = tiles of queries, the last first; y = query heads; z = batch.

KERNEL(THREADS, MIN_BLOCKS) attention_queries(const Params p) {
    int first = (grid_x() - 1 - block_x()) * TILE_M, head = block_y(), batch = block_z();
    int key_head = head / (p.query_heads / p.key_heads), end = min_(first + TILE_M, p.query_len);
    Mask mask = Mask::of(p, batch);
    Scores how = Scores::of(p, head);
    KeyTiles<TILE_M> tiles = KeyTiles<TILE_M>::of(mask, first, end);
    u32 q_tile = shared_address(0), g_tile = q_tile + SINGLE_BYTES, k_tile = g_tile + SINGLE_BYTES;
    u32 v_tile = k_tile + SINGLE_BYTES, shared_gradients = v_tile + SINGLE_BYTES;
    const char *g = single_plane(p.grad_output, p.grad_output_strides, batch, head);
    copy_single(q_tile, single_plane(p.q, p.q_strides, batch, head), p.q_strides.row, first, p.query_len, p.head_dim);
    copy_single(g_tile, g, p.grad_output_strides.row, first, p.query_len, p.head_dim);
    SumTile dq;
    clear_single(dq);
    float lse[EACH], delta[EACH];
    int first_key[EACH];
    UNROLL for (int i = 0; i < EACH; i++) {
        int query = first + own_row() + 16 * i;
        long long at = ((long long)batch * p.query_heads + head) * p.padded_query_len + query;
        lse[i] = load_float((const float *)p.lse_log2 + at);
        delta[i] = load_float((const float *)p.delta + at);
        first_key[i] = mask.first_key(query);
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
        ScoreTile weights, gradients;
        single_products(weights, q_tile, k_tile);
        single_products(gradients, g_tile, v_tile);
        UNROLL for (int i = 0; i < EACH; i++) {
            int query = first + own_row() + 16 * i, last_key = mask.last_key(query);
            UNROLL for (int j = 0; j < EACH; j++) {
                int at = key + own_column() + 16 * j;
                finish_single(weights[i][j], gradients[i][j], how, (float)(query + mask.offset - at), lse[i], delta[i],
                              mask.sees(first_key[i], last_key, at));
            }
        }
        share(shared_gradients, gradients);
        barrier();
        add_single_products(dq, shared_gradients, k_tile);
    }
    UNROLL for (int i = 0; i < EACH; i++) {
        int query = first + own_row() + 16 * i;
        if (query >= p.query_len) continue;
        char *row = (char *)single_plane(p.dq, p.dq_strides, batch, head) + 4 * query * p.dq_strides.row;
        store_single(row, dq[i], p.scale, p.head_dim);
    }
}
