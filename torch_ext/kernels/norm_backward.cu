// Backward of RMSNorm and LayerNorm: with n = (x - mean) * rstd and g = grad * weight,
//   dx = rstd * (g - mean(g) - n * mean(g * n)) + grad_sum   (RMSNorm has no means: mean(g) is left out),
//   dweight = sum over rows of grad * n, dbias of grad.
// Statistics that were not kept are found again in the row that is held.
//
// A group takes every so many rows and keeps its part of the sums in registers until its last; `column_sums` adds the parts,
// so that there is one order of adding and no atomic operation.
//
// Grid: x = groups by ROWS, as many as there are parts.

KERNEL(THREADS, MIN_BLOCKS) norm_backward(const Params p) {
    long long group = first_row();
    int columns = p.columns;
    if (group >= p.parts) return;
    bool whole = columns % EACH == 0;
    Numbers dweight[CHUNKS];
    UNROLL for (int c = 0; c < CHUNKS; c++)
        UNROLL for (int i = 0; i < EACH; i++) dweight[c][i] = 0.0f;
#if LAYER_NORM
    Numbers dbias[CHUNKS];
    UNROLL for (int c = 0; c < CHUNKS; c++)
        UNROLL for (int i = 0; i < EACH; i++) dbias[c][i] = 0.0f;
#endif
    int turn = 0;
    for (long long row = group; row < p.rows; row += p.parts) {
        long long start = SIZE * row * columns;
        Chunk grads[CHUNKS], held[CHUNKS];
        UNROLL for (int c = 0; c < CHUNKS; c++) {
            int at = EACH * (c * ROW_THREADS + row_thread());
            grads[c] = load_piece((const char *)p.grad + start, at, columns, whole, 0);
            held[c] = load_piece((const char *)p.x + start, at, columns, whole, 0);
        }
        Statistics of = p.rstd ? Statistics::kept(p, row) : Statistics::found(held, columns, p.epsilon, turn);
        float rstd = of.rstd, mean = of.mean;
        float along = 0.0f, level = 0.0f;
        UNROLL for (int c = 0; c < CHUNKS; c++) {
            int at = EACH * (c * ROW_THREADS + row_thread());
            Numbers grad, numbers, weight;
            unpack_piece(grad, grads[c]);
            unpack_piece(numbers, held[c]);
            unpack_piece(weight, load_piece((const char *)p.weight, at, columns, true, 0));
            // Beyond the row gradient and weight are zero.
            UNROLL for (int i = 0; i < EACH; i++) {
                float normed = (numbers[i] - mean) * rstd;
                along = fma_(grad[i] * weight[i], normed, along);
                dweight[c][i] = fma_(grad[i], normed, dweight[c][i]);
#if LAYER_NORM
                level = fma_(grad[i], weight[i], level);
                dbias[c][i] += grad[i];
#endif
            }
        }
        along = divide(row_sum(along, turn), (float)columns);
#if LAYER_NORM
        level = divide(row_sum(level, turn), (float)columns);
#endif
        UNROLL for (int c = 0; c < CHUNKS; c++) {
            int at = EACH * (c * ROW_THREADS + row_thread());
            if (at >= columns) continue;
            Numbers grad, numbers, weight, passed;
            unpack_piece(grad, grads[c]);
            unpack_piece(numbers, held[c]);
            unpack_piece(weight, load_piece((const char *)p.weight, at, columns, true, 0));
            Chunk sum = p.grad_sum ? load_piece((const char *)p.grad_sum + start, at, columns, whole, 0) : chunk_of(0);
            unpack_piece(passed, sum);
            UNROLL for (int i = 0; i < EACH; i++) {
                float normed = (numbers[i] - mean) * rstd;
                grad[i] = fma_(rstd, grad[i] * weight[i] - level - normed * along, passed[i]);
            }
            store_piece((char *)p.dx + start, at, columns, whole, pack_piece(grad));
        }
    }
    // Parts lie in rows of float32, which begin where four of them may if there are as many to a row.
    bool fours = columns % 4 == 0;
    UNROLL for (int c = 0; c < CHUNKS; c++) {
        int at = EACH * (c * ROW_THREADS + row_thread());
        store_floats(p.dweight_parts + group * columns, at, columns, fours, dweight[c]);
#if LAYER_NORM
        if (p.dbias_parts) store_floats(p.dbias_parts + group * columns, at, columns, fours, dbias[c]);
#endif
    }
}
