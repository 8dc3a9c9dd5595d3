// Products of fragments (PTX ISA, "Matrix Fragments for mma.m16n8k16"). Of a result block of 16 rows by 8 columns a lane
// has row lane / 4 and columns 2 (lane % 4) and the next one in elements 0 and 1, and the row 8 further in elements 2 and 3.
// Rounded to pairs, two neighbouring blocks of a result are the fragment A of the next product: it never leaves registers.

template <int ROWS, int COLUMNS> DEVICE void clear(float (&result)[ROWS][COLUMNS][4]) {
    UNROLL for (int row = 0; row < ROWS; row++)
        UNROLL for (int n = 0; n < COLUMNS; n++)
            UNROLL for (int i = 0; i < 4; i++) result[row][n][i] = 0.0f;
}

// result = a b^T over HEAD_DIM, STEP_UNROLL steps of 16 columns at once: rows of the result are rows of a, its columns
// are rows of b.
template <int ROWS, int COLUMNS>
DEVICE void products(float (&result)[ROWS][COLUMNS][4], const Reader &a, const Reader &b) {
    clear(result);
    UNROLL_BY(STEP_UNROLL) for (int step = 0; step < HEAD_DIM / 16; step++) {
        u32 left[ROWS][4];
        UNROLL for (int row = 0; row < ROWS; row++) load_matrices(left[row], a.of(row, step));
        UNROLL for (int n = 0; n < COLUMNS; n += 2) {
            u32 right[4];
            load_matrices(right, b.of(n / 2, step));
            UNROLL for (int row = 0; row < ROWS; row++) {
                multiply_add(result[row][n], left[row], right[0], right[2]);
                multiply_add(result[row][n + 1], left[row], right[1], right[3]);
            }
        }
    }
}

// sum += weights b: columns of the weights are rows of b; columns of the sum are those of b from 16 * first_step on.
template <int ROWS, int COLUMNS, int SUMS>
DEVICE void add_products(float (&sum)[ROWS][SUMS][4], const float (&weights)[ROWS][COLUMNS][4], const Reader &b,
                         int first_step = 0) {
    UNROLL for (int n = 0; n < COLUMNS; n += 2) {
        u32 left[ROWS][4];
        UNROLL for (int row = 0; row < ROWS; row++)
            UNROLL for (int i = 0; i < 4; i++)
                left[row][i] = pack(weights[row][n + i / 2][i % 2 * 2], weights[row][n + i / 2][i % 2 * 2 + 1]);
        UNROLL for (int step = 0; step < SUMS / 2; step++) {
            u32 right[4];
            load_matrices_transposed(right, b.of(n / 2, first_step + step));
            UNROLL for (int row = 0; row < ROWS; row++) {
                multiply_add(sum[row][2 * step], left[row], right[0], right[1]);
                multiply_add(sum[row][2 * step + 1], left[row], right[2], right[3]);
            }
        }
    }
}

// Rounds one row of a sum, times a factor, to a row of a tensor; the lane has columns 2 (lane % 4) and the next of every 8.
template <int SUMS>
DEVICE void store_row(char *row, const float (&sum)[SUMS][4], int half, float factor, int first_column, int head_dim) {
    int lane = thread_index() & 31;
    UNROLL for (int n = 0; n < SUMS; n++) {
        int column = first_column + 8 * n;
        if (column < head_dim)
            store_word(row + 2 * (column + lane % 4 * 2), pack(sum[n][2 * half] * factor, sum[n][2 * half + 1] * factor));
    }
}
