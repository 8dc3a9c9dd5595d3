// Mean and one over root of variance of a row in pieces, or, without LAYER_NORM, of its mean square.

struct Statistics {
    float mean, rstd;

    // As forward left them.
    MEMBER static Statistics kept(const Params &p, long long row) {
        Statistics of = {0.0f, load_float(p.rstd + row)};
#if LAYER_NORM
        of.mean = load_float(p.mean + row);
#endif
        return of;
    }

    // Of a row that its threads hold, with zeros beyond its end.
    MEMBER static Statistics found(const Chunk (&held)[CHUNKS], int columns, float epsilon, int &turn) {
        float mean = 0.0f, square = 0.0f;
#if LAYER_NORM
        UNROLL for (int c = 0; c < CHUNKS; c++) {
            Numbers numbers;
            unpack_piece(numbers, held[c]);
            UNROLL for (int i = 0; i < EACH; i++) mean += numbers[i];
        }
        mean = divide(row_sum(mean, turn), (float)columns);
#endif
        UNROLL for (int c = 0; c < CHUNKS; c++) {
            int at = EACH * (c * ROW_THREADS + row_thread());
            Numbers numbers;
            unpack_piece(numbers, held[c]);
            UNROLL for (int i = 0; i < EACH; i++) {
                float centred = at + i < columns ? numbers[i] - mean : 0.0f;
                square = fma_(centred, centred, square);
            }
        }
        square = row_sum(square, turn);
        return {mean, divide(1.0f, square_root(divide(square, (float)columns) + epsilon))};
    }
};
