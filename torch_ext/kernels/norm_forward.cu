// RMSNorm (Zhang and Sennrich 2019, equation 4) or LayerNorm (Ba et al. 2016, equation 3) of rows, of the sum with a residual
// if there is one. A row is read once and held in registers; statistics are those of the sum as it is stored.
//
// Grid: x = rows by ROWS.

KERNEL(THREADS, MIN_BLOCKS) norm_forward(const Params p) {
    long long row = first_row();
    int columns = p.columns;
    if (row >= p.rows) return;
    // Rows of whole pieces begin where a piece may.
    bool whole = columns % EACH == 0;
    const char *x = (const char *)p.x + SIZE * row * columns;
    Chunk held[CHUNKS];
    UNROLL for (int c = 0; c < CHUNKS; c++) {
        int at = EACH * (c * ROW_THREADS + row_thread());
        held[c] = load_piece(x, at, columns, whole, 0);
    }
    if (p.residual) {
        const char *residual = (const char *)p.residual + SIZE * row * columns;
        char *sum = (char *)p.sum + SIZE * row * columns;
        Chunk added[CHUNKS];
        UNROLL for (int c = 0; c < CHUNKS; c++) {
            int at = EACH * (c * ROW_THREADS + row_thread());
            added[c] = load_piece(residual, at, columns, whole, 0);
        }
        UNROLL for (int c = 0; c < CHUNKS; c++) {
            int at = EACH * (c * ROW_THREADS + row_thread());
            Numbers left, right;
            unpack_piece(left, held[c]);
            unpack_piece(right, added[c]);
            UNROLL for (int i = 0; i < EACH; i++) left[i] += right[i];
            held[c] = pack_piece(left);
            store_piece(sum, at, columns, whole, held[c]);
        }
    }
    int turn = 0;
    Statistics of = Statistics::found(held, columns, p.epsilon, turn);
    char *out = (char *)p.out + SIZE * row * columns;
    UNROLL for (int c = 0; c < CHUNKS; c++) {
        int at = EACH * (c * ROW_THREADS + row_thread());
        if (at >= columns) continue;
        Numbers numbers, weight;
        unpack_piece(numbers, held[c]);
        unpack_piece(weight, load_piece((const char *)p.weight, at, columns, true, 0));
#if LAYER_NORM
        Numbers bias;
        unpack_piece(bias, p.bias ? load_piece((const char *)p.bias, at, columns, true, 0) : chunk_of(0));
        UNROLL for (int i = 0; i < EACH; i++) numbers[i] = fma_((numbers[i] - of.mean) * of.rstd, weight[i], bias[i]);
#else
        UNROLL for (int i = 0; i < EACH; i++) numbers[i] = numbers[i] * of.rstd * weight[i];
#endif
        store_piece(out, at, columns, whole, pack_piece(numbers));
    }
    if (row_thread() != 0) return;
    if (p.rstd) store_float(p.rstd + row, of.rstd);
#if LAYER_NORM
    if (p.mean) store_float(p.mean + row, of.mean);
#endif
}
